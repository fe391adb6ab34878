//! An engine under TLS: one of its own that does nothing else, with
//! certificates made for it.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    Test,
    binary::Fanout,
    stack::{Stack, eventually},
    trials::skip,
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[("an_engine_under_tls_is_found_as_docker_finds_it", engine)];

/// Makes an authority at `$1`, and what it signs: a server's certificate for
/// this machine, and a client's.
const CERTIFICATES: &str = r#"
set -eu
mkdir -p "$1"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -subj "/CN=authority" -keyout ca.key -out ca.pem
sign() { # <name> <extensions>
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    printf '%s\n' "$2" >"$1.ext"
    openssl x509 -req -days 2 -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial \
        -extfile "$1.ext" -out "$1.pem"
}
sign server 'subjectAltName=IP:127.0.0.1,DNS:localhost
extendedKeyUsage=serverAuth'
sign client 'extendedKeyUsage=clientAuth'
cp client.pem cert.pem
cp client.key key.pem
"#;

/// A daemon that has nothing of the one that the stack is on.
struct Daemon {
    child: Child,
    folder: TempDir,
    host: String,
}

impl Daemon {
    /// Nothing where none can be started: it takes root, or sudo.
    fn start() -> Option<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let root: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
        let dockerd = [root, &["dockerd"]].concat();
        let found = Command::new(dockerd[0])
            .args(&dockerd[1..])
            .arg("--version")
            .output();
        if !found.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        certificates(&folder.path().join("ours"));
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = format!("tcp://{}", port.local_addr().expect("an address"));
        drop(port);
        let log = File::create(folder.path().join("log")).expect("made");
        let child = Command::new(dockerd[0])
            .args(&dockerd[1..])
            .env_remove("DOCKER_HOST")
            .args(["--host", &host, "--tlsverify"])
            .args(["--tlscacert", &at("ours/ca.pem")])
            .args(["--tlscert", &at("ours/server.pem")])
            .args(["--tlskey", &at("ours/server.key")])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid")])
            .args(["--bridge", "none", "--iptables=false"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        Some(Self {
            child,
            folder,
            host,
        })
    }

    fn certificates(&self) -> PathBuf {
        self.folder.path().join("ours")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // In order, so that it takes its mounts away.
        if nix::unistd::geteuid().is_root() {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            let _ = kill(pid, Signal::SIGTERM);
            let _ = self.child.wait();
            return;
        }
        // What root started only root ends, and removes.
        let sudo = |words: &[&str]| {
            let _ = Command::new("sudo").arg("-n").args(words).status();
        };
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        sudo(&["kill", pid.trim()]);
        let _ = self.child.wait();
        let folder = self.folder.path().display().to_string();
        sudo(&["rm", "-rf", "--one-file-system", &folder]);
    }
}

fn certificates(folder: &Path) {
    let made = Command::new("sh")
        .args(["-c", CERTIFICATES, "sh"])
        .arg(folder)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "openssl: {said}");
}

fn engine(stack: &Stack) {
    let Some(daemon) = Daemon::start() else {
        skip("a daemon under TLS takes dockerd, and root or sudo");
    };
    let plain = stack.other("tls").with("DOCKER_HOST", &daemon.host);
    let with = |folder: &Path| {
        let folder = folder.display().to_string();
        let verifying = plain.with("DOCKER_TLS_VERIFY", "1");
        verifying.with("DOCKER_CERT_PATH", &folder)
    };
    let plan = ["up", "redis", "--dry-run"];
    let answers = format!("responds at {}", daemon.host);
    let ours = with(&daemon.certificates());
    eventually("the daemon answers", || {
        let planned = ours.run(&plan);
        match planned.code {
            Some(0) if planned.stderr.contains(&answers) => Ok(()),
            _ => Err(format!("{}\n{}", planned.evidence(), daemon.log())),
        }
    });
    // On a busy machine the daemon may not answer in time: what it refuses, and
    // how that is said, shows once it does.
    let refused = |fanout: &Fanout, words: &str| {
        eventually(words, || {
            let ended = fanout.run(&plan);
            let said = |text: &str| ended.stderr.contains(text);
            let named = said(words) && said("DOCKER_CERT_PATH=<folder>");
            (ended.code == Some(3) && named)
                .then_some(())
                .ok_or_else(|| format!("{}\n{}", ended.evidence(), daemon.log()))
        });
    };
    refused(
        &plain,
        "it requires TLS, but no certificates are configured",
    );
    let theirs = daemon.folder.path().join("theirs");
    certificates(&theirs);
    let authority = format!(
        "not signed by the authority in {}",
        theirs.join("ca.pem").display()
    );
    refused(&with(&theirs), &authority);
    // The right authority, and a client of the wrong one.
    fs::copy(daemon.certificates().join("ca.pem"), theirs.join("ca.pem")).expect("copied");
    refused(&with(&theirs), "it rejects the certificate in ");
    fs::remove_file(theirs.join("key.pem")).expect("removed");
    refused(&with(&theirs), "key.pem cannot be read");
    by_context(&plain, &daemon);
}

/// The same by a context that the docker command made.
fn by_context(plain: &Fanout, daemon: &Daemon) {
    let config = daemon.folder.path().join("config").display().to_string();
    let at = |name: &str| daemon.certificates().join(name).display().to_string();
    let endpoint = format!(
        "host={},ca={},cert={},key={}",
        daemon.host,
        at("ca.pem"),
        at("cert.pem"),
        at("key.pem")
    );
    let made = Command::new("docker")
        .args([
            "--config", &config, "context", "create", "far", "--docker", &endpoint,
        ])
        .output()
        .expect("the docker command");
    assert!(made.status.success(), "{made:?}");
    let fanout = plain.with("DOCKER_HOST", "").with("DOCKER_CONFIG", &config);
    let plan = ["--docker-context", "far", "up", "redis", "--dry-run"];
    let answers = format!("responds at {}", daemon.host);
    eventually("the context's engine answers", || {
        let planned = fanout.run(&plan);
        match planned.code {
            Some(0) if planned.stderr.contains(&answers) => Ok(()),
            _ => Err(planned.evidence()),
        }
    });
}
