//! From the daemon's exec until it speaks HTTP/2 on the socket that containerd waits one second for.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::{image::Digest, limits};

use crate::{
    node::{Result, containerd::DIFF_SOCKET, product, product::SERVICE, registry::REGISTRY},
    policy::{Policy, systemctl},
    report::{Row, Section, tail},
    statistics::quantile,
};

const STARTS: usize = 30;
const RUNTIME: &str = "/run/bench-start";
const PAUSE: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_secs(5);
/// The client's preface and an empty SETTINGS frame (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;

pub fn measure() -> Result<Vec<Section>> {
    let policy = Policy { host: REGISTRY, key: product::KEY_FILE, formats: &[] };
    policy.write_for_daemon("")?;
    let config = policy.write("/etc/bench/start", "")?;
    fs::create_dir_all(RUNTIME)?;
    fs::set_permissions(RUNTIME, fs::Permissions::from_mode(0o700))?;
    let (mut by_hand, mut activated, mut with_kept) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        by_hand.push(start_by_hand(&config)?);
        activated.push(start_by_socket()?);
    }
    keep(limits::KEPT_IMAGES)?;
    for _ in 0..STARTS {
        with_kept.push(start_by_hand(&config)?);
    }
    let row = |what: &str, times: &[f64]| {
        let p99 = quantile(times, 0.99);
        Row::new(what, tail(times)).target("200 ms", p99 <= 0.2)
    };
    let mut section = Section::new(format!("Start of the daemon until it speaks HTTP/2 ({STARTS} starts)"));
    section.rows.push(row("from exec", &by_hand));
    section.rows.push(row(&format!("from exec, with the evidence of {} images kept", limits::KEPT_IMAGES), &with_kept));
    section.rows.push(row("from a connection that systemd starts it for", &activated));
    Ok(vec![section])
}

/// Keeps evidence about `images` images, as much as a bundle has.
fn keep(images: usize) -> Result<()> {
    let directory = Path::new(RUNTIME).join("evidence-1");
    fs::create_dir_all(&directory)?;
    let bundle = STANDARD.encode(vec![b'x'; 2000]);
    let about = format!(
        r#"{{"evidence":[{{"first-seen":"2026-01-01T00:00:00Z","found":{{"material":{{"bundle":"{bundle}"}},"place":"reg.example/app"}}}}],"indexes":[]}}"#
    );
    for image in 0..images {
        let digest = Digest::of(&image.to_le_bytes());
        fs::write(directory.join(digest.hex()).with_extension("json"), &about)?;
    }
    Ok(())
}

fn start_by_hand(config: &str) -> Result<f64> {
    let begun = Instant::now();
    let daemon = Command::new("pullgate")
        .args(["--config", config, "daemon", "--runtime", RUNTIME, "--state", RUNTIME])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _daemon = Ended(daemon);
    let socket = Path::new(RUNTIME).join("diff.sock");
    loop {
        if let Ok(stream) = UnixStream::connect(&socket) {
            speak(stream)?;
            return Ok(begun.elapsed().as_secs_f64());
        }
        if begun.elapsed() > LONGEST {
            return Err("the daemon makes no socket".into());
        }
        thread::sleep(PAUSE);
    }
}

fn start_by_socket() -> Result<f64> {
    systemctl(&["stop", SERVICE])?;
    let begun = Instant::now();
    speak(UnixStream::connect(DIFF_SOCKET)?)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Waits for the server's first frame, which has to be SETTINGS.
fn speak(mut stream: UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(PREFACE)?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame)?;
    if frame[3] == SETTINGS { Ok(()) } else { Err(format!("the server begins with {frame:?}").into()) }
}

/// A daemon that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(Path::new(RUNTIME).join("diff.sock"));
    }
}
