//! Files and folders of fanout's own, made and opened so that nobody else can
//! lead it elsewhere. fanout may be root while a server that it started is not:
//! what root writes is therefore in folders that only root can change, a link of
//! another user is never followed, new files have names that nobody can guess,
//! and owners and modes are changed through open descriptors. A link of our own
//! in place of a folder is the operator's, who moved it to another disk.
//!
//! | mode | what |
//! |---|---|
//! | 0700 | a project's folders; 0711 for root, above what a server of another user reaches |
//! | 0600 | state, journals, records, locks, logs |
//! | 0750, 0640 | as root: a server's configuration, which its group may read |

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
};

use nix::{
    fcntl::OFlag,
    unistd::{Gid, Uid, fchown, geteuid},
};

/// The most that is read of a file that another user may have written.
const SMALL: u64 = 64 * 1024;

/// Set on folders like `/tmp`: everybody may add to them, and nobody may remove
/// what is another's.
const STICKY: u32 = 0o1000;

/// Why a file or folder is not trusted.
#[derive(Debug, thiserror::Error)]
enum Untrusted {
    #[error("it belongs to {0}")]
    Another(String),
    #[error("it is a link of {0}")]
    Link(String),
    #[error("it is no folder")]
    NoFolder,
    #[error("it is no regular file")]
    NoFile,
    #[error("others may write into it (mode {0:o})")]
    Writable(u32),
}

impl From<Untrusted> for io::Error {
    fn from(why: Untrusted) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, why)
    }
}

/// Mode of a folder that servers have to pass through: those of root's project
/// run as another user.
#[must_use]
pub fn passable() -> u32 {
    if geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Writes a file of the owner's alone beside `path`, then renames it there.
///
/// # Errors
/// When the folder takes no file.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    write_for(None, path, content)
}

/// The same for a file that one group may read too.
///
/// # Errors
/// When the folder takes no file.
pub fn write_for(reader: Option<Gid>, path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Made with O_EXCL under a random name, and removed where this fails.
    let mut new = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    new.write_all(content)?;
    if reader.is_some() {
        fchown(new.as_file(), None, reader)?;
    }
    let mode = if reader.is_some() { 0o640 } else { 0o600 };
    new.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Opens a file of ours, a lock or a log, and makes it where `options` say so.
/// It is the owner's alone from then on, also where an earlier version made it.
///
/// # Errors
/// When it is another user's, a link or no regular file, or cannot be opened.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(0o600).custom_flags(careful()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(Untrusted::NoFile.into());
    }
    check_owner(found.uid())?;
    if found.mode() & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Reads a file that another user may have put there: a server into its data.
///
/// # Errors
/// When it is a link or no regular file, is no UTF-8, or cannot be read.
pub fn read_small(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(careful())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Untrusted::NoFile.into());
    }
    let mut text = String::new();
    file.take(SMALL).read_to_string(&mut text)?;
    Ok(text)
}

/// Follows no link, and does not wait for the other end of a pipe.
fn careful() -> i32 {
    (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()
}

/// Makes a folder of ours with this mode, whatever the umask. One that is there
/// gets the mode.
///
/// # Errors
/// When it is another user's or no folder, or cannot be made.
pub fn own_folder(path: &Path, mode: u32) -> io::Result<()> {
    make(path, mode)?;
    let folder = open_folder(path)?;
    check_owner(folder.metadata()?.uid())?;
    folder.set_permissions(Permissions::from_mode(mode))
}

/// Makes a folder that others may read, and those above that are missing.
///
/// # Errors
/// When one cannot be made.
pub fn shared_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|one| !one.exists()).collect();
    for one in missing.into_iter().rev() {
        make(one, 0o755)?;
    }
    Ok(())
}

/// Makes a new folder and gives it to a user.
///
/// # Errors
/// When something is there already, or the system does not let us.
pub fn given_folder(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    let folder = open_folder(path)?;
    folder.set_permissions(Permissions::from_mode(0o700))?;
    fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(())
}

/// Makes a folder of ours that one group may read. One that an earlier version
/// gave away is made anew: what is in it may be anything.
///
/// # Errors
/// When it cannot be made.
pub fn readable_folder(path: &Path, reader: Option<Gid>) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.uid() != geteuid().as_raw()) {
        fs::remove_dir_all(path)?;
    }
    own_folder(path, 0o700)?;
    let Some(reader) = reader else {
        return Ok(());
    };
    let folder = open_folder(path)?;
    fchown(&folder, None, Some(reader))?;
    folder.set_permissions(Permissions::from_mode(0o750))
}

/// Makes one folder, unless something is there. The mode is the given one from
/// the start or less, so nobody slips in.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => open_folder(path)?.set_permissions(Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let found = fs::symlink_metadata(path)?;
    let mut flags = OFlag::O_DIRECTORY;
    if found.is_symlink() {
        check_link(found.uid())?;
    } else {
        // Nobody may put one there meanwhile.
        flags |= OFlag::O_NOFOLLOW;
    }
    if !fs::metadata(path)?.is_dir() {
        return Err(Untrusted::NoFolder.into());
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}

/// Where several users may make links, nobody can take away another's.
fn check_link(uid: u32) -> io::Result<()> {
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Untrusted::Link(name_of(uid)).into())
}

/// Checks that a folder that is there is ours, or root's, and that nobody else
/// can change what is in it. A link to such a folder will do.
///
/// # Errors
/// Why it cannot be trusted.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.is_dir() {
        return Err(Untrusted::NoFolder.into());
    }
    if found.uid() != 0 {
        check_owner(found.uid())?;
    }
    let mode = found.mode();
    // Many systems give each user a group of their own, and a umask that lets it
    // write.
    let own_group = found.gid() == nix::unistd::getegid().as_raw();
    let others = if own_group { 0o002 } else { 0o022 };
    if mode & others != 0 && mode & STICKY == 0 {
        return Err(Untrusted::Writable(mode & 0o7777).into());
    }
    Ok(())
}

/// Checks that a folder that is there is ours.
///
/// # Errors
/// Why it cannot be trusted.
pub fn check_own_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            check_owner(open_folder(path)?.metadata()?.uid())?;
            check_folder(path)
        }
    }
}

fn name_of(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(Uid::from_raw(uid));
    match user.ok().flatten() {
        Some(user) => format!("user {}", user.name),
        None => format!("user {uid}"),
    }
}

fn check_owner(uid: u32) -> io::Result<()> {
    if uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Untrusted::Another(name_of(uid)).into())
}

/// The first character of a path that the configuration files of servers do not
/// take: a list of folders is split at it, or it would end the value.
#[must_use]
pub fn unwritable(path: &Path) -> Option<char> {
    let name: &OsStr = path.as_os_str();
    let Ok(text) = std::str::from_utf8(name.as_bytes()) else {
        return Some(char::REPLACEMENT_CHARACTER);
    };
    text.chars()
        .find(|letter| !letter.is_alphanumeric() && !" /._-+@=~^()".contains(*letter))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").mode() & 0o7777
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn modes_are_kept_whatever_the_umask() {
        let folder = folder();
        let place = |name: &str| folder.path().join(name);
        for umask in [0o000, 0o077] {
            let name = |what: &str| place(&format!("{what}{umask:o}"));
            let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
            let made = own_folder(&name("own"), 0o711)
                .and_then(|()| write_atomically(&name("file"), b"x"))
                .and_then(|()| write_for(Some(nix::unistd::getegid()), &name("group"), b"x"))
                .and_then(|()| readable_folder(&name("conf"), Some(nix::unistd::getegid())));
            let opened = open(&name("log"), File::options().append(true).create(true));
            nix::sys::stat::umask(before);
            made.expect("made");
            opened.expect("opened");
            let found = ["own", "file", "group", "conf", "log"].map(|it| mode(&name(it)));
            assert_eq!(found, [0o711, 0o600, 0o640, 0o750, 0o600]);
        }
    }

    #[test]
    fn what_an_earlier_version_left_open_is_closed() {
        let folder = folder();
        let log = folder.path().join("log");
        fs::write(&log, "x").expect("written");
        fs::set_permissions(&log, Permissions::from_mode(0o644)).expect("opened");
        open(&log, File::options().append(true)).expect("opened");
        assert_eq!(mode(&log), 0o600);
        own_folder(folder.path(), 0o700).expect("ours");
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_link_in_place_of_a_file_is_not_followed() {
        let folder = folder();
        let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
        fs::write(&target, "kept").expect("written");
        symlink(&target, &link).expect("linked");
        open(&link, File::options().write(true).create(true)).expect_err("a link");
        read_small(&link).expect_err("a link");
        write_atomically(&link, b"new").expect("written");
        assert_eq!(fs::read_to_string(&target).expect("there"), "kept");
        assert_eq!(fs::read_to_string(&link).expect("there"), "new");

        let [real, link] = ["real", "folder"].map(|name| folder.path().join(name));
        fs::create_dir(&real).expect("made");
        symlink(&real, &link).expect("linked");
        own_folder(&link, 0o711).expect("the operator may have moved it");
        assert_eq!(mode(&real), 0o711);
        check_own_folder(&link).expect("the same");
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
        read_small(&pipe).expect_err("a pipe");
        open(&pipe, File::options().read(true).write(true)).expect_err("a pipe");
    }

    #[test]
    fn a_folder_that_others_may_change_is_not_trusted() {
        let folder = folder();
        let set = |mode| {
            let mode = Permissions::from_mode(mode);
            fs::set_permissions(folder.path(), mode).expect("changed");
        };
        for trusted in [0o700, 0o755, 0o775, 0o1777] {
            set(trusted);
            check_folder(folder.path()).expect("trusted");
        }
        set(0o777);
        let error = check_folder(folder.path()).expect_err("open");
        assert_eq!(error.to_string(), "others may write into it (mode 777)");
        check_folder(&folder.path().join("nothing")).expect("nothing is there");
    }

    #[test]
    fn root_takes_nothing_from_a_folder_of_another_user() {
        if !geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let folder = folder();
        let given = folder.path().join("given");
        given_folder(&given, 65534, 65534).expect("made");
        assert_eq!(fs::metadata(&given).expect("there").uid(), 65534);
        assert!(own_folder(&given, 0o700).is_err() && check_folder(&given).is_err());
        given_folder(&given, 0, 0).expect_err("it is there");

        let secret = folder.path().join("secret");
        fs::write(&secret, "kept").expect("written");
        symlink(&secret, given.join("planted")).expect("linked");
        readable_folder(&given, Some(Gid::from_raw(65534))).expect("made anew");
        assert_eq!(fs::read_dir(&given).expect("there").count(), 0);
        assert_eq!(fs::read_to_string(&secret).expect("there"), "kept");
        let found = fs::metadata(&given).expect("there");
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o777),
            (0, 65534, 0o750)
        );

        let [real, link] = ["real", "link"].map(|name| folder.path().join(name));
        fs::create_dir(&real).expect("made");
        symlink(&real, &link).expect("linked");
        std::os::unix::fs::lchown(&link, Some(65534), None).expect("given");
        let before = mode(&real);
        for refused in [own_folder(&link, 0o777), check_own_folder(&link)] {
            let error = refused.expect_err("a link of another's");
            assert_eq!(error.to_string(), "it is a link of user nobody");
        }
        assert_eq!(mode(&real), before);

        let foreign = folder.path().join("foreign");
        fs::write(&foreign, "").expect("written");
        std::os::unix::fs::chown(&foreign, Some(65534), None).expect("given");
        let error = open(&foreign, File::options().write(true)).expect_err("another's");
        assert_eq!(error.to_string(), "it belongs to user nobody");
    }

    #[test]
    fn paths_that_would_break_a_configuration_file_are_found() {
        assert_eq!(unwritable(Path::new("/srv/fan out/größe (1)")), None);
        for (path, letter) in [
            ("/a,b", ','),
            ("/a:b", ':'),
            ("/a\"b", '"'),
            ("/a\nb", '\n'),
        ] {
            assert_eq!(unwritable(Path::new(path)), Some(letter), "{path:?}");
        }
    }
}
