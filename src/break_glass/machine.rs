//! Which machine this is, which boot, and for how long.

use std::{fs, io, path::Path, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::{clock::Clock, image::Digest};

use super::Moment;

/// Where the kernel and the system say it.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const MACHINE: &str = "/etc/machine-id";
const PRODUCT: &str = "/sys/class/dmi/id/product_uuid";

/// This moment on this machine.
///
/// # Errors
/// When it cannot be told which machine or boot it is.
pub(super) fn moment(clock: &Clock) -> Result<Moment, String> {
    moment_at(clock, Path::new("/"))
}

fn moment_at(clock: &Clock, root: &Path) -> Result<Moment, String> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let boot = identifier(&at(BOOT))?.ok_or_else(|| format!("{BOOT} is not there"))?;
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).map_err(|error| error.to_string())?;
    // Asked last, so that what has passed is never counted too short.
    Ok(Moment { machine: machine(&at(MACHINE), &at(PRODUCT))?, boot, up, wall: clock.now().ok() })
}

/// What tells this machine from a copy of it: what the system invented when it was installed, and what the hardware, or who
/// runs the virtual machine, calls it. Hashed, since the first is nobody else's business (machine-id(5)).
fn machine(installed: &Path, product: &Path) -> Result<Digest, String> {
    let id = identifier(installed)?.ok_or_else(|| format!("{} is not there", installed.display()))?;
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("{} has no machine's identifier", installed.display()));
    }
    let product = identifier(product)?.unwrap_or_else(|| "none".to_owned());
    Ok(Digest::of(format!("pullgate break-glass\n{id}\n{product}\n").as_bytes()))
}

/// The short text in `path`; none when there is no such file.
fn identifier(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) if (1..=64).contains(&text.trim().len()) => Ok(Some(text.trim().to_lowercase())),
        Ok(_) => Err(format!("{} has no identifier", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The user who logged in and from whose session the process `pid` comes (proc_pid_loginuid(5)).
pub(super) fn login(pid: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_another_machine_and_what_cannot_be_told_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let [installed, product] = ["machine-id", "product_uuid"].map(|name| folder.path().join(name));
        let with = |id: &str, uuid: Option<&str>| {
            fs::write(&installed, id).unwrap();
            match uuid {
                Some(uuid) => fs::write(&product, uuid).unwrap(),
                None => drop(fs::remove_file(&product)),
            }
            machine(&installed, &product)
        };
        let [one, other] = ["0123456789abcdef0123456789abcdef\n", "f123456789abcdef0123456789abcdef\n"];
        let alone = with(one, None).unwrap();
        assert_eq!(with(one, None), Ok(alone));
        assert_ne!(with(other, None), Ok(alone));
        let on_hardware = with(one, Some("4C4C4544-0000-0000-0000-000000000001\n")).unwrap();
        assert_ne!(on_hardware, alone);
        assert_eq!(with(one, Some("4c4c4544-0000-0000-0000-000000000001")), Ok(on_hardware));
        assert_ne!(with(one, Some("4c4c4544-0000-0000-0000-000000000002")), Ok(on_hardware));
        for nothing in ["", "uninitialized\n", "0123", &"0".repeat(100)] {
            assert!(with(nothing, None).is_err(), "{nothing}");
        }
        fs::remove_file(&installed).unwrap();
        assert!(machine(&installed, &product).unwrap_err().ends_with("is not there"));
    }

    #[test]
    fn this_machine_has_an_uptime() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(MACHINE, "0123456789abcdef0123456789abcdef\n");
        assert!(moment_at(&Clock::unkept(), folder.path()).is_err(), "without a boot");
        write(BOOT, "6f0b0c5e-7f0e-4f0e-8f0e-000000000000\n");
        let one = moment_at(&Clock::unkept(), folder.path()).unwrap();
        let other = moment_at(&Clock::unkept(), folder.path()).unwrap();
        assert!(one.wall.is_some() && one.up > Duration::ZERO && other.up >= one.up);
        assert_eq!((&one.boot, one.machine), (&other.boot, other.machine));
    }
}
