//! Files and directories that appear whole or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `contents` to `path` so that a reader, or a crash at any moment, sees the old file or the new one, never a part.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(contents))
}

/// As [`write()`], for contents that are streamed by `fill`. When `fill` fails, `path` is untouched.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let parent = parent(path);
    fs::create_dir_all(parent)?;
    let mut temporary = tempfile::Builder::new().prefix(".pemlc-").tempfile_in(parent)?;
    {
        let mut buffered = io::BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        fill(&mut buffered)?;
        buffered.flush()?;
    }
    temporary.as_file().sync_all()?;
    // Temporary files are made private; what is published gets the usual permissions.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory(parent)
}

/// A directory that is built beside its destination and takes its name on [`commit`](Self::commit). Dropped before that,
/// it is removed and the destination is as it was.
///
/// While it is built its directory is locked. A process that is killed cannot remove it, but loses the lock: the next one to build
/// beside it does.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: tempfile::TempDir,
    destination: PathBuf,
    /// Held, not read. None where directories cannot be locked; what is killed there stays.
    _lock: Option<File>,
}

/// How the names of directories that are being built begin.
const BUILDING: &str = ".pemlc-building-";

impl AtomicDir {
    /// Makes an empty temporary directory beside `destination`, whose parents are created. Removes those of killed processes.
    pub fn new(destination: &Path) -> io::Result<Self> {
        let parent = parent(destination);
        fs::create_dir_all(parent)?;
        remove_abandoned(parent)?;
        loop {
            let temporary = tempfile::Builder::new().prefix(BUILDING).tempdir_in(parent)?;
            let lock = lock(temporary.path());
            // Before it was locked, another process may have taken it for abandoned.
            if temporary.path().is_dir() && !matches!(lock, Err(TryLockError::WouldBlock)) {
                return Ok(Self { temporary, destination: destination.to_path_buf(), _lock: lock.ok() });
            }
        }
    }

    /// Where to write the contents before the commit.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the directory its name. An existing destination is refused unless it is empty or `replace` is set; a
    /// replaced one is removed only once the new one has its name, and comes back if the renaming fails.
    pub fn commit(self, replace: bool) -> io::Result<()> {
        let Self { temporary, destination, _lock } = self;
        sync_tree(temporary.path())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755))?;
        }
        let parent = parent(&destination);
        let occupied = match fs::read_dir(&destination) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if occupied && !replace {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists and is not empty", destination.display()),
            ));
        }
        if occupied {
            // The old contents move into a directory that removes itself.
            let aside = tempfile::Builder::new().prefix(".pemlc-old-").tempdir_in(parent)?;
            let old = aside.path().join("old");
            fs::rename(&destination, &old)?;
            if let Err(error) = fs::rename(temporary.path(), &destination) {
                fs::rename(&old, &destination)?;
                return Err(error);
            }
        } else {
            // Renaming onto an empty directory replaces it.
            fs::rename(temporary.path(), &destination)?;
        }
        // The temporary name is gone: nothing is left to remove.
        let _ = temporary.keep();
        sync_directory(parent)
    }
}

/// Removes the directories in `parent` that a process was building when it was killed.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(BUILDING)
            || !entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            continue;
        }
        // Whoever holds the lock is alive. The lock is kept until the directory is gone.
        if let Ok(_lock) = lock(&entry.path()) {
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let name = entry.path();
                    let reason =
                        format!("{}, left by a process that was killed, cannot be removed: {error}", name.display());
                    return Err(io::Error::new(error.kind(), reason));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Locks a directory for as long as the result lives.
fn lock(directory: &Path) -> Result<File, TryLockError> {
    let file = File::open(directory).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    // Directories can be opened and synced on Unix alone; elsewhere the rename is durable enough.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/file.txt");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_directory_appears_on_commit_only() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("artifact");

        let dropped = AtomicDir::new(&destination).unwrap();
        fs::write(dropped.path().join("half"), "x").unwrap();
        drop(dropped);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        let first = AtomicDir::new(&destination).unwrap();
        fs::write(first.path().join("file"), "1").unwrap();
        assert!(!destination.exists());
        first.commit(false).unwrap();
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "1");

        let refused = AtomicDir::new(&destination).unwrap();
        assert_eq!(refused.commit(false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "1");

        let replacing = AtomicDir::new(&destination).unwrap();
        fs::write(replacing.path().join("file"), "2").unwrap();
        replacing.commit(true).unwrap();
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "2");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left beside it");
    }

    #[cfg(unix)]
    #[test]
    fn what_a_killed_process_was_building_is_removed_and_what_a_live_one_builds_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(format!("{BUILDING}dead"));
        let theirs = folder.path().join(".pemlc-theirs");
        for path in [&dead, &theirs] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "half").unwrap();
        }
        let live = AtomicDir::new(&folder.path().join("first")).unwrap();
        let second = AtomicDir::new(&folder.path().join("second")).unwrap();
        assert!(!dead.exists() && theirs.exists());
        assert!(live.path().is_dir() && second.path().is_dir());
        live.commit(false).unwrap();
        assert!(folder.path().join("first").is_dir());
    }
}
