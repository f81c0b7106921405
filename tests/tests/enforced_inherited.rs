//! Sockets that were opened outside stay outside.

use std::{
    fs::File,
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use sluice_tests::{
    skip,
    vector::marker,
    vectors::{
        session::{self, Bench, Direct},
        world::{ORIGIN4, World},
    },
};

/// The attempt; its port is nobody's, since the sockets are connected already.
const INHERITED: [(&str, u16); 1] = [("inherited", 2601)];
/// `sluice run` failed before the command started.
const FAILED: i32 = 125;

/// Sockets to the origin, kept open across `exec`.
struct Leak {
    _tcp: TcpStream,
    _udp: UdpSocket,
    _accepting: TcpListener,
}

fn leak(world: &World) -> Leak {
    let listener = world.origin.run(|| TcpListener::bind((ORIGIN4, 0)));
    let listener = listener.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let made = world.node.run(|| {
        let tcp = TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5))?;
        let udp = UdpSocket::bind("0.0.0.0:0")?;
        udp.connect((ORIGIN4, 2602))?;
        for socket in [tcp.as_fd(), udp.as_fd()] {
            assert!(socket.as_raw_fd() <= 64, "the attempt looks no further");
            fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        anyhow::Ok((tcp, udp))
    });
    let (tcp, udp) = made.expect("sockets");
    Leak {
        _tcp: tcp,
        _udp: udp,
        _accepting: listener,
    }
}

/// One test, so that no descriptor leaks into another one's processes.
#[test]
fn descriptors_stay_behind_and_sockets_are_refused() {
    if !skip::is_root() {
        return;
    }
    let world = World::new().expect("a world");
    let bench = Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench");
    let _leak = leak(&world);

    let free = bench
        .free(&world.node, false, "free", &INHERITED)
        .expect("a session");
    let (attempts, _) = free.finish().expect("it ends");
    let sent = marker("free", "inherited");
    let carrying = |tag: &str, sent: &[u8]| {
        let seen = world.seen(tag).expect("controls");
        seen.arrived.iter().filter(|it| it.carries(sent)).count()
    };
    assert!(attempts[0].ok, "{attempts:?}");
    assert_eq!(carrying("free", &sent), 2, "TCP and UDP");

    let confined = bench
        .confined(&world.node, Direct::Redirect, "shut", &INHERITED)
        .expect("a session");
    let (attempts, _) = confined.finish().expect("it ends");
    assert_eq!(attempts[0].errno, Some(libc::EBADF), "{attempts:?}");
    assert_eq!(carrying("shut", &marker("shut", "inherited")), 0);

    socket_as_stdin(&world);
}

fn socket_as_stdin(world: &World) {
    let folder = tempfile::tempdir().expect("a folder");
    let witness = folder.path().join("witness");
    let output = world.node.run(|| {
        let udp = UdpSocket::bind("0.0.0.0:0")?;
        udp.connect((ORIGIN4, 2603))?;
        let mut command = Command::new(session::sluice()?);
        command.arg("run").arg("--user").arg("0");
        command.arg("--audit").arg(folder.path().join("audit"));
        command.arg("--").arg("/usr/bin/touch").arg(&witness);
        command.stdin(Stdio::from(OwnedFd::from(udp)));
        command.stdout(Stdio::from(File::open("/dev/null")?));
        anyhow::Ok(command.stderr(Stdio::piped()).output()?)
    });
    let output = output.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(FAILED), "{said}");
    assert!(
        said.contains("standard input is a network socket"),
        "{said}"
    );
    assert!(!witness.exists(), "something was run");
}
