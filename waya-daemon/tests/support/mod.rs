//! A small file system of one's own, in an image file.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image; unmounted when dropped.
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.point).status().is_ok_and(|status| status.success());
        if !unmounted {
            let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        }
    }
}

/// Makes an ext4 file system of so many bytes in a file.
pub fn make_image(path: &Path, bytes: u64) -> Result<(), String> {
    File::create(path).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(path))
}

/// Mounts an image at a folder, which is made.
pub fn mount(image: &Path, point: &Path) -> Result<Mounted, String> {
    fs::create_dir_all(point).map_err(|error| error.to_string())?;
    run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(point))?;
    Ok(Mounted { point: point.to_owned() })
}

/// Says why a test did not run, past the harness, which would keep it to itself.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: loop mounts are not possible here: {why}");
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
