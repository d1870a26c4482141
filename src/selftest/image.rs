//! An image that nobody has ever seen: random bytes, and a program that only ends.

use std::fmt::Write as _;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::image::{Digest, NodePlatform, media_type};

/// What the manifest of each such image says, so that what a run left behind is known for what it is.
pub(super) const MARK: &str = "pullgate.self-test";
/// The media type of its one layer: an archive that is not compressed, so that its digest is its diff id.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The program in it.
const PROGRAM: &str = "pullgate-self-test";
/// Bytes of a block of an archive.
const BLOCK: usize = 512;

/// The three blobs of an image.
pub(super) struct Image {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layer: Vec<u8>,
}

/// The system gives no random bytes, and without them anybody could know the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness")]
pub(super) struct NoRandomness;

impl Image {
    /// An image of the run `run`.
    pub(super) fn new(run: &str) -> Result<Self, NoRandomness> {
        let nonce = random::<32>()?;
        let layer = archive(&[(PROGRAM, 0o755, &program()), ("nonce", 0o444, &nonce)]);
        let config = json!({
            "architecture": NodePlatform::here().architecture,
            "os": "linux",
            "config": { "Entrypoint": [format!("/{PROGRAM}")] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let descriptor =
            |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": descriptor(media_type::CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
            "annotations": { MARK: run },
        });
        Ok(Self { manifest: manifest.to_string().into_bytes(), config, layer })
    }

    /// The digests by which a gate may be asked: of the manifest and of the configuration.
    pub(super) fn digests(&self) -> [Digest; 2] {
        [Digest::of(&self.manifest), Digest::of(&self.config)]
    }

    /// The blobs.
    pub(super) fn blobs(&self) -> [(&'static str, &[u8]); 3] {
        [(media_type::MANIFEST, &self.manifest), (media_type::CONFIG, &self.config), (LAYER, &self.layer)]
    }
}

/// The name of a run: nobody else's.
pub(super) fn run_name() -> Result<String, NoRandomness> {
    let mut name = String::new();
    for byte in random::<8>()? {
        // Into memory.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Whether the image can be started on this machine.
pub(super) const fn can_start() -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
}

/// A program that ends at once with 0: an ELF header, one segment, and a system call (System V ABI, "Object Files").
fn program() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const AT: u64 = 0x40_0000;
    let (machine, code): (u16, &[u8]) = match cfg!(target_arch = "aarch64") {
        // mov x8, #93; mov x0, #0; svc #0
        true => (183, &[0xa8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]),
        // mov eax, 60; xor edi, edi; syscall
        false => (62, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
    };
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    let word = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    let long = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    // An executable, version 1, entered behind the headers.
    half(&mut elf, &[2, machine]);
    word(&mut elf, &[1]);
    long(&mut elf, &[AT + HEADERS, 64, 0]);
    word(&mut elf, &[0]);
    half(&mut elf, &[64, 56, 1, 0, 0, 0]);
    // One segment: to be loaded, read and executed.
    word(&mut elf, &[1, 5]);
    long(&mut elf, &[0, AT, AT, size, size, 0x1_0000]);
    elf.extend_from_slice(code);
    elf
}

/// An archive of `files`, each with its mode (POSIX.1-1988, "ustar Interchange Format").
fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in files {
        archive.extend_from_slice(&header(name, *mode, bytes.len()));
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, mode: u32, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The sum is made with spaces in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;
    use crate::image::{Config, Document};

    #[test]
    fn no_two_images_share_a_digest() {
        let all: Vec<Digest> =
            (0..8).flat_map(|_| Image::new("x").unwrap().blobs().map(|(_, bytes)| Digest::of(bytes))).collect();
        let mut each = all.clone();
        each.sort_unstable();
        each.dedup();
        assert_eq!(each.len(), all.len());
        assert_ne!(run_name().unwrap(), run_name().unwrap());
    }

    #[test]
    fn it_is_an_image_as_the_gates_read_one() {
        let image = Image::new("a-run").unwrap();
        let Document::Manifest(manifest) = Document::parse(&image.manifest, media_type::MANIFEST).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!(manifest.config.digest, image.digests()[1]);
        assert_eq!(manifest.layers[0].digest, Digest::of(&image.layer));
        assert_eq!(manifest.layers[0].size, image.layer.len() as u64);
        assert_eq!(Config::parse(&image.config).unwrap().diff_ids, [Digest::of(&image.layer)]);
        assert!(image.blobs().iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < 4096);
    }

    #[test]
    fn tar_unpacks_it_and_its_program_ends_with_0() {
        assert!(can_start(), "this machine has no program");
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer.tar");
        std::fs::write(&layer, Image::new("x").unwrap().layer).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(&layer).arg("-C").arg(folder.path()).status().unwrap();
        assert!(unpacked.success());
        let program = folder.path().join(PROGRAM);
        assert_eq!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::metadata(folder.path().join("nonce")).unwrap().len(), 32);
        assert_eq!(Command::new(&program).status().unwrap().code(), Some(0));
    }
}
