//! Creates and opens fanout's files and folders so that no other user can
//! redirect them. fanout may be root while the servers that it starts are not.
//! Therefore root writes only into folders that only root can change, links of
//! other users are never followed, new files have unpredictable names, and
//! owners and modes are changed through open descriptors. A link of fanout's
//! own user in place of a folder is followed, because the operator may have
//! moved the folder to another disk.
//!
//! | mode | files |
//! |---|---|
//! | 0700 | a project's folders; as root 0711 if a server of another user reads below them |
//! | 0600 | state, journals, records, locks, logs |
//! | 0750, 0640 | as root: a server's configuration, readable for the server's group |

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

/// Maximum number of bytes read from a file that another user may have written.
const SMALL: u64 = 64 * 1024;

/// Sticky bit of folders like `/tmp`: everybody may add files, but only remove
/// their own.
const STICKY: u32 = 0o1000;

/// Reason why a file or folder is not trusted.
#[derive(Debug, thiserror::Error)]
enum Untrusted {
    #[error("it belongs to {0}")]
    Another(String),
    #[error("it is a symbolic link owned by {0}")]
    Link(String),
    #[error("it is not a folder")]
    NoFolder,
    #[error("it is not a regular file")]
    NoFile,
    #[error("others may write to it (mode {0:o})")]
    Writable(u32),
}

impl From<Untrusted> for io::Error {
    fn from(reason: Untrusted) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, reason)
    }
}

/// Returns the mode of a folder that servers pass through. Servers of root's
/// projects run as another user.
#[must_use]
pub fn passable() -> u32 {
    if geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Writes a file that only its owner can read beside `path`, then renames it to
/// `path`.
///
/// # Errors
/// If the file cannot be written.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    write_for(None, path, content)
}

/// Writes a file atomically, readable for its owner and optionally for one
/// group.
///
/// # Errors
/// If the file cannot be written.
pub fn write_for(reader: Option<Gid>, path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // The file is created with O_EXCL under a random name, and removed on
    // failure.
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

/// Opens a file of this user, such as a lock or a log, and creates it if
/// `options` say so. Restricts its mode to the owner, even if an earlier
/// version created it.
///
/// # Errors
/// If the file belongs to another user, is a link or not a regular file, or
/// cannot be opened.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(0o600).custom_flags(safe_flags()).open(path)?;
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

/// Reads a file that another user may have written, for example a server in its
/// data folder.
///
/// # Errors
/// If the file is a link, not a regular file, not UTF-8, or unreadable.
pub fn read_small(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(safe_flags())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Untrusted::NoFile.into());
    }
    let mut text = String::new();
    file.take(SMALL).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns flags that follow no link and do not block on a pipe.
fn safe_flags() -> i32 {
    (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()
}

/// Creates a folder with this mode, whatever the umask. An existing folder of
/// this user gets the mode.
///
/// # Errors
/// If the folder belongs to another user, is not a folder, or cannot be
/// created.
pub fn own_folder(path: &Path, mode: u32) -> io::Result<()> {
    create_one(path, mode)?;
    let folder = open_folder(path)?;
    check_owner(folder.metadata()?.uid())?;
    folder.set_permissions(Permissions::from_mode(mode))
}

/// Creates a folder that others may read, and its missing parents.
///
/// # Errors
/// If a folder cannot be created.
pub fn shared_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        create_one(folder, 0o755)?;
    }
    Ok(())
}

/// Creates a new folder and gives it to a user.
///
/// # Errors
/// If the path exists already, or the owner cannot be changed.
pub fn given_folder(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    let folder = open_folder(path)?;
    folder.set_permissions(Permissions::from_mode(0o700))?;
    fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(())
}

/// Creates a folder that one group may read. A folder that an earlier version
/// gave to another user is recreated, because its content is not trusted.
///
/// # Errors
/// If the folder cannot be created.
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

/// Creates one folder unless the path exists. The mode is never wider than
/// requested, so no other user can enter in between.
fn create_one(path: &Path, mode: u32) -> io::Result<()> {
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
        // The path must not be replaced by a link in the meantime.
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

/// Checks the owner of a link. In a folder that several users can write to, no
/// user can remove another's link.
fn check_link(uid: u32) -> io::Result<()> {
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Untrusted::Link(name_of(uid)).into())
}

/// Checks that an existing folder belongs to this user or root, and that nobody
/// else can change its content. A link to such a folder is accepted.
///
/// # Errors
/// If the folder is not trusted.
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
    // Many systems give each user a private group, and a umask that lets the
    // group write.
    let own_group = found.gid() == nix::unistd::getegid().as_raw();
    let others = if own_group { 0o002 } else { 0o022 };
    if mode & others != 0 && mode & STICKY == 0 {
        return Err(Untrusted::Writable(mode & 0o7777).into());
    }
    Ok(())
}

/// Checks that an existing folder belongs to this user.
///
/// # Errors
/// If the folder is not trusted.
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

/// Returns the first character of a path that is not allowed in the servers'
/// configuration files: it would split a list of folders or end the value.
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
        fs::symlink_metadata(path).expect("the path exists").mode() & 0o7777
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn the_umask_does_not_change_modes() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        for umask in [0o000, 0o077] {
            let name = |prefix: &str| path(&format!("{prefix}{umask:o}"));
            let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
            let created = own_folder(&name("own"), 0o711)
                .and_then(|()| write_atomically(&name("file"), b"x"))
                .and_then(|()| write_for(Some(nix::unistd::getegid()), &name("group"), b"x"))
                .and_then(|()| readable_folder(&name("conf"), Some(nix::unistd::getegid())));
            let opened = open(&name("log"), File::options().append(true).create(true));
            nix::sys::stat::umask(before);
            created.expect("create the files");
            opened.expect("open the file");
            let found = ["own", "file", "group", "conf", "log"].map(|file| mode(&name(file)));
            assert_eq!(found, [0o711, 0o600, 0o640, 0o750, 0o600]);
        }
    }

    #[test]
    fn wider_modes_of_an_earlier_version_are_restricted() {
        let folder = folder();
        let log = folder.path().join("log");
        fs::write(&log, "x").expect("write the file");
        fs::set_permissions(&log, Permissions::from_mode(0o644)).expect("open the file");
        open(&log, File::options().append(true)).expect("open the file");
        assert_eq!(mode(&log), 0o600);
        own_folder(folder.path(), 0o700).expect("a folder of this user");
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_link_in_place_of_a_file_is_not_followed() {
        let folder = folder();
        let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
        fs::write(&target, "kept").expect("write the file");
        symlink(&target, &link).expect("create the link");
        open(&link, File::options().write(true).create(true)).expect_err("a link");
        read_small(&link).expect_err("a link");
        write_atomically(&link, b"new").expect("write the file");
        assert_eq!(
            fs::read_to_string(&target).expect("the path exists"),
            "kept"
        );
        assert_eq!(fs::read_to_string(&link).expect("the path exists"), "new");

        let [real, link] = ["real", "folder"].map(|name| folder.path().join(name));
        fs::create_dir(&real).expect("create the folder");
        symlink(&real, &link).expect("create the link");
        own_folder(&link, 0o711).expect("the operator may have moved it");
        assert_eq!(mode(&real), 0o711);
        check_own_folder(&link).expect("the same");
    }

    #[test]
    fn a_pipe_is_refused_without_blocking() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("create the file");
        read_small(&pipe).expect_err("a pipe");
        open(&pipe, File::options().read(true).write(true)).expect_err("a pipe");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_trusted() {
        let folder = folder();
        let set = |mode| {
            let mode = Permissions::from_mode(mode);
            fs::set_permissions(folder.path(), mode).expect("change the mode");
        };
        for trusted in [0o700, 0o755, 0o775, 0o1777] {
            set(trusted);
            check_folder(folder.path()).expect("a trusted folder");
        }
        set(0o777);
        let error = check_folder(folder.path()).expect_err("a folder open to all");
        assert_eq!(error.to_string(), "others may write to it (mode 777)");
        check_folder(&folder.path().join("nothing")).expect("nothing is there");
    }

    #[test]
    fn root_does_not_trust_a_folder_of_another_user() {
        if !geteuid().is_root() {
            // Only root can change the owner of a file.
            return;
        }
        let folder = folder();
        let given = folder.path().join("given");
        given_folder(&given, 65534, 65534).expect("create the file");
        assert_eq!(fs::metadata(&given).expect("the path exists").uid(), 65534);
        assert!(own_folder(&given, 0o700).is_err() && check_folder(&given).is_err());
        given_folder(&given, 0, 0).expect_err("the folder exists");

        let secret = folder.path().join("secret");
        fs::write(&secret, "kept").expect("write the file");
        symlink(&secret, given.join("planted")).expect("create the link");
        readable_folder(&given, Some(Gid::from_raw(65534))).expect("recreate the folder");
        assert_eq!(fs::read_dir(&given).expect("the path exists").count(), 0);
        assert_eq!(
            fs::read_to_string(&secret).expect("the path exists"),
            "kept"
        );
        let found = fs::metadata(&given).expect("the path exists");
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o777),
            (0, 65534, 0o750)
        );

        let [real, link] = ["real", "link"].map(|name| folder.path().join(name));
        fs::create_dir(&real).expect("create the folder");
        symlink(&real, &link).expect("create the link");
        std::os::unix::fs::lchown(&link, Some(65534), None).expect("change the owner");
        let before = mode(&real);
        for refused in [own_folder(&link, 0o777), check_own_folder(&link)] {
            let error = refused.expect_err("a link of another's");
            assert_eq!(
                error.to_string(),
                "it is a symbolic link owned by user nobody"
            );
        }
        assert_eq!(mode(&real), before);

        let foreign = folder.path().join("foreign");
        fs::write(&foreign, "").expect("write the file");
        std::os::unix::fs::chown(&foreign, Some(65534), None).expect("change the owner");
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
