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
/// beside it does ([`tidy`]).
#[derive(Debug)]
pub struct AtomicDir {
    temporary: tempfile::TempDir,
    destination: PathBuf,
    /// Held, not read. None where directories cannot be locked; what is killed there stays.
    _lock: Option<File>,
}

/// How the names of directories that are being built begin.
const BUILDING: &str = ".pemlc-building-";
/// How the names of directories begin that hold one, under its own name, which is being replaced.
const ASIDE: &str = ".pemlc-old-";

impl AtomicDir {
    /// Makes an empty temporary directory beside `destination`, whose parents are created. Removes those of killed processes.
    pub fn new(destination: &Path) -> io::Result<Self> {
        let parent = parent(destination);
        fs::create_dir_all(parent)?;
        tidy(destination)?;
        let (temporary, lock) = locked_directory(BUILDING, parent)?;
        Ok(Self { temporary, destination: destination.to_path_buf(), _lock: lock })
    }

    /// Where to write the contents before the commit.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the directory its name. An existing destination is refused unless it is empty or `replace` is set.
    ///
    /// A replaced one is removed only once the new one has its name. On Linux both change places in one step. On file systems that cannot
    /// do that it is renamed first, and comes back if the second renaming fails; if the process is killed between both, [`tidy`]
    /// puts it back.
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
            if exchange(temporary.path(), &destination) {
                // The temporary name is the old one's now. Should it stay, it has no lock: the next process removes it.
                let _ = temporary.close();
                return sync_directory(parent);
            }
            let aside = Aside::new(&destination)?;
            if let Err(error) = fs::rename(temporary.path(), &destination) {
                fs::rename(aside.old(), &destination)?;
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

/// Tidies up after processes that were killed while they built or replaced a directory beside `destination`: what they were building is
/// removed, and what they had put aside gets its name back, unless something else has it by now.
pub fn tidy(destination: &Path) -> io::Result<()> {
    let parent = parent(destination);
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let aside = name.starts_with(ASIDE);
        if !(aside || name.starts_with(BUILDING)) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // Whoever holds the lock is alive. The lock is kept until the directory is gone.
        if let Ok(_lock) = lock(&entry.path()) {
            let path = entry.path();
            let put_back = if aside { put_back(&path, parent) } else { Ok(()) };
            match put_back.and_then(|()| fs::remove_dir_all(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let reason =
                        format!("{}, left by a process that was killed, cannot be removed: {error}", path.display());
                    return Err(io::Error::new(error.kind(), reason));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Gives what lies in `aside` its name in `parent` back, where that is free.
fn put_back(aside: &Path, parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(aside)? {
        let entry = entry?;
        // Nothing, or an empty directory, gives way.
        match fs::rename(entry.path(), parent.join(entry.file_name())) {
            Err(error) if !is_taken(error.kind()) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a renaming failed because the name is taken.
fn is_taken(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory)
}

/// A directory that was moved out of the way, into one that removes itself.
struct Aside {
    /// Held, not read: it removes itself.
    _folder: tempfile::TempDir,
    old: PathBuf,
    /// Held, not read: the process is alive.
    _lock: Option<File>,
}

impl Aside {
    fn new(destination: &Path) -> io::Result<Self> {
        let name = destination.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{} cannot be replaced", destination.display()))
        })?;
        let (folder, lock) = locked_directory(ASIDE, parent(destination))?;
        let old = folder.path().join(name);
        fs::rename(destination, &old)?;
        Ok(Self { _folder: folder, old, _lock: lock })
    }

    fn old(&self) -> &Path {
        &self.old
    }
}

/// Lets two directories change places in one step, where the file system can.
fn exchange(one: &Path, other: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (one, other);
        false
    }
}

/// A fresh directory in `parent` that this process has the lock of, where directories can be locked.
fn locked_directory(prefix: &str, parent: &Path) -> io::Result<(tempfile::TempDir, Option<File>)> {
    loop {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let lock = lock(folder.path());
        // Before it was locked, another process may have taken it for abandoned.
        if folder.path().is_dir() && !matches!(lock, Err(TryLockError::WouldBlock)) {
            return Ok((folder, lock.ok()));
        }
    }
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
    fn what_a_killed_process_had_put_aside_comes_back_unless_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("artifact");
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let write = |text: &str| {
            fs::create_dir_all(&destination).unwrap();
            fs::write(destination.join("file"), text).unwrap();
        };
        // A process that is killed drops its locks and nothing else.
        let kill = |aside: Aside| {
            let Aside { _folder, .. } = aside;
            let _ = _folder.keep();
        };

        write("old");
        let living = Aside::new(&destination).unwrap();
        tidy(&destination).unwrap();
        assert!(!destination.exists() && living.old().exists(), "a living process keeps what it put aside");
        kill(living);
        tidy(&destination).unwrap();
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "old");
        assert_eq!(names(), ["artifact"]);

        // Killed once the new one had its name.
        kill(Aside::new(&destination).unwrap());
        write("new");
        tidy(&destination).unwrap();
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "new");
        assert_eq!(names(), ["artifact"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_directories_change_places() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        for path in [&one, &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(one.join("file"), "1").unwrap();
        assert!(exchange(&one, &other));
        assert!(!one.join("file").exists() && other.join("file").exists());
        assert!(!exchange(&one, &folder.path().join("missing")));
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
