//! A compiler for guests made from Debian's packages, where `rustup` cannot reach its server.
//!
//! Debian keeps a current compiler for building its browsers (`rustc-web`), with the sources of the same release's
//! standard library, and wasi-libc. Nothing is installed: the packages are unpacked into one folder, cargo's
//! `-Zbuild-std` compiles the standard library once per target, and the results are laid into the unpacked sysroot, so
//! that every later build is an ordinary one. Only the linker, `rust-lld`, is that of the compiler at hand.
//!
//! apt is given lists and a cache of its own in that folder, so this needs no root and leaves the machine's package
//! state as it was.

use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::{TARGETS, sysroot};
use crate::process::{exists, output, run, say};

/// The release that the guests' crates need.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");

/// What the C library and the C++ runtime of the machine bring; ours must not stand in front of them.
const OF_THE_MACHINE: [&str; 5] = ["libc6", "libgcc-s1", "libstdc++6", "libcrypt1", "gcc-12-base"];

/// The folder that holds the compiler, and everything that was needed on the way.
#[derive(Debug)]
pub(crate) struct Toolchain {
    folder: PathBuf,
}

/// One of the compilers that a Debian or Ubuntu release has: `rustc`, `rustc-web`, `rustc-1.95` …
#[derive(Clone, Debug, Eq, PartialEq)]
struct Family {
    suffix: String,
    version: String,
}

impl Family {
    /// Compiler, library sources and the host's library: what a release of rustc is cut into.
    fn packages(suffix: &str) -> [String; 3] {
        [format!("rustc{suffix}"), format!("rust{suffix}-src"), format!("libstd-rust{suffix}-dev")]
    }
}

impl Toolchain {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The compiler, if an earlier run finished and the linker that it uses is still there.
    pub(crate) fn finished(&self) -> Option<PathBuf> {
        let linker = fs::read_to_string(self.marker()).ok()?;
        Path::new(linker.trim_end()).exists().then(|| self.wrapper())
    }

    /// Makes the compiler. What an interrupted run left is thrown away first.
    pub(crate) fn make(&self, at_hand: &OsString) -> Result<PathBuf> {
        for tool in ["apt-get", "dpkg-deb"] {
            ensure!(exists(tool), "there is no `{tool}`: this is not Debian or Ubuntu");
        }
        let linker = linker(at_hand)?;
        let start = Instant::now();
        say(format!(
            "making a compiler for guests from Debian's packages in {} (about 2 minutes, 1 GB)",
            self.folder.display()
        ));
        // The marker goes first, so that at no time it stands for half a folder.
        remove(&self.marker())?;
        remove(&self.folder)?;
        fs::create_dir_all(&self.folder)?;

        let apt = Apt::new(self.folder.join("apt"))?;
        say("1/4 reading the package lists");
        let updated = apt.update();
        let packages = match apt.choose() {
            Ok(packages) => packages,
            // Without lists there is nothing to choose from: that apt failed is then the better reason.
            Err(error) => return Err(updated.err().unwrap_or(error)),
        };
        say(format!("2/4 fetching {}", packages.join(" ")));
        let archives = apt.download(&self.folder.join("deb"), &packages)?;
        say(format!("3/4 unpacking {} packages", archives.len()));
        for archive in &archives {
            run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(self.root()))
                .context("unpacking failed; is the disk full?")?;
        }
        self.write_wrapper(&linker)?;
        say(format!("4/4 compiling std for {}", TARGETS.join(" and ")));
        self.build_std()?;

        for spent in ["std", "deb", "apt"] {
            remove(&self.folder.join(spent))?;
        }
        fs::write(self.marker(), format!("{}\n", linker.display()))?;
        say(format!("the compiler for guests is ready after {} s", start.elapsed().as_secs()));
        Ok(self.wrapper())
    }

    /// Written last, so that it stands for a complete folder.
    fn marker(&self) -> PathBuf {
        self.folder.join("done")
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn wrapper(&self) -> PathBuf {
        self.folder.join("rustc")
    }

    /// A script that starts the unpacked compiler with its own libraries and the linker of the compiler at hand.
    fn write_wrapper(&self, linker: &Path) -> Result<()> {
        let usr = self.root().join("usr");
        let rustc = find(&usr, &|name| name == "rustc" || name.starts_with("rustc-1."))
            .filter(|path| path.is_file())
            .context("the packages hold no `rustc`")?;
        let driver = find(&usr, &|name| name.starts_with("librustc_driver"))
            .context("the packages hold no `librustc_driver`")?;
        let libraries = driver.parent().context("`librustc_driver` is in no folder")?;
        let mut search = vec![libraries.to_path_buf()];
        if let Some(multiarch) = libraries.file_name() {
            // Some libraries are in `/lib`, some of LLVM's may be in a folder of its own.
            search.extend([usr.join("lib").join(multiarch), self.root().join("lib").join(multiarch)]);
        }
        if let Some(llvm) = find(&usr, &|name| name.starts_with("libLLVM")) {
            search.extend(llvm.parent().map(Path::to_path_buf));
        }
        search.dedup();
        let search = search.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
        let bin = linker.parent().context("the linker is in no folder")?;
        let script = format!(
            "#!/bin/sh\nexport LD_LIBRARY_PATH='{}'\nexport PATH=\"$PATH:{bin}:{bin}/gcc-ld\"\nexec '{}' \"$@\"\n",
            search.join(":"),
            rustc.display(),
            bin = bin.display(),
        );
        fs::write(self.wrapper(), script)?;
        fs::set_permissions(self.wrapper(), fs::Permissions::from_mode(0o755))?;
        let version =
            output(Command::new(self.wrapper()).arg("--version")).context("the unpacked compiler does not start")?;
        say(format!("    {}", version.trim_end()));
        Ok(())
    }

    /// Compiles the standard library by way of an empty crate, and lays it into the unpacked sysroot.
    fn build_std(&self) -> Result<()> {
        let scratch = self.folder.join("std");
        fs::create_dir_all(scratch.join("src"))?;
        // A workspace of its own, or cargo would take it for a forgotten member of the one around it.
        fs::write(scratch.join("Cargo.toml"), "[package]\nname = \"scratch\"\nedition = \"2024\"\n\n[workspace]\n")?;
        fs::write(scratch.join("src").join("lib.rs"), "")?;

        let wasi_libc = find(&self.root(), &|name| name == "crt1-command.o")
            .and_then(|file| file.parent().map(Path::to_path_buf))
            .context("the package `wasi-libc` has no `crt1-command.o`")?;
        let built = scratch.join("built");
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--release", "-Zbuild-std=std,panic_abort"])
            .current_dir(&scratch)
            .env("RUSTC", self.wrapper())
            // A stable cargo refuses `-Z` otherwise.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", format!("-L native={}", wasi_libc.display()))
            .env("CARGO_TARGET_DIR", &built)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        for target in TARGETS {
            cargo.args(["--target", target]);
        }
        run(&mut cargo).context("compiling std failed; cargo's own message is above")?;

        let rustlib = sysroot(&self.wrapper().into())?.join("lib").join("rustlib");
        for target in TARGETS {
            let library = rustlib.join(target).join("lib");
            fs::create_dir_all(&library)?;
            for file in fs::read_dir(built.join(target).join("release").join("deps"))? {
                let file = file?;
                let name = file.file_name();
                let text = name.to_string_lossy();
                if text.ends_with(".rlib") && !text.starts_with("libscratch-") {
                    fs::copy(file.path(), library.join(name))?;
                }
            }
        }
        let own = rustlib.join(TARGETS[0]).join("lib").join("self-contained");
        fs::create_dir_all(&own)?;
        for name in ["crt1-command.o", "crt1-reactor.o", "libc.a"] {
            fs::copy(wasi_libc.join(name), own.join(name))
                .with_context(|| format!("the package `wasi-libc` has no `{name}`"))?;
        }
        Ok(())
    }
}

/// apt with package lists and a cache of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf) -> Result<Self> {
        for needed in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(needed))?;
        }
        Ok(Self { folder })
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let lists = self.folder.join("lists");
        let cache = self.folder.join("cache");
        command.env("LC_ALL", "C").args([
            "-qq",
            &format!("-oDir::State::lists={}", lists.display()),
            &format!("-oDir::Cache={}", cache.display()),
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
            "-oAcquire::http::Timeout=30",
            // As root apt would fetch as the user `_apt`, who need not have access to this folder.
            "-oAPT::Sandbox::User=root",
        ]);
        command
    }

    fn update(&self) -> Result<()> {
        run(self.command("apt-get").arg("update"))
            .context("the package lists cannot be read; are the network and /etc/apt/sources.list all right?")
    }

    /// The packages to fetch, those of the compiler with their version.
    fn choose(&self) -> Result<Vec<String>> {
        let families = self.families()?;
        let Some(family) = newest(&families) else {
            bail!(
                "the package lists of this system have no compiler that is recent enough; looked for \
                 `rustc`, `rustc-web` and `rustc-1.N` of at least {NEEDED}, each with its `rust…-src` and \
                 `libstd-rust…-dev`, and found {}",
                if families.is_empty() {
                    "none".to_owned()
                } else {
                    families
                        .iter()
                        .map(|family| format!("rustc{} {}", family.suffix, family.version))
                        .collect::<Vec<_>>()
                        .join(", ")
                }
            );
        };
        let mut chosen =
            Family::packages(&family.suffix).map(|package| format!("{package}={}", family.version)).to_vec();
        chosen.push("wasi-libc".to_owned());
        // The run-time part of the compiler is a package named after the release, and needs LLVM, which needs more.
        for needed in self.depends(&chosen, false)? {
            if needed.starts_with("libstd-rust-") && !needed.ends_with("-dev") {
                let exact = format!("{needed}={}", family.version);
                chosen.extend(self.libraries(&exact)?);
                chosen.push(exact);
            }
        }
        chosen.sort();
        chosen.dedup();
        Ok(chosen)
    }

    /// The compilers of these lists that come with library sources of the same version.
    fn families(&self) -> Result<Vec<Family>> {
        let names = output(self.command("apt-cache").args(["pkgnames", "rustc"]))?;
        let mut families = Vec::new();
        for name in names.lines() {
            let suffix = name.strip_prefix("rustc").unwrap_or_default();
            if !(suffix.is_empty() || suffix == "-web" || suffix.starts_with("-1.")) {
                continue;
            }
            let [compiler, rest @ ..] = Family::packages(suffix);
            let versions = self.versions(&compiler)?;
            let others = [self.versions(&rest[0])?, self.versions(&rest[1])?];
            families.extend(
                versions
                    .into_iter()
                    .filter(|version| others.iter().all(|other| other.contains(version)))
                    .map(|version| Family { suffix: suffix.to_owned(), version }),
            );
        }
        Ok(families)
    }

    /// The versions of a package that can be fetched, the newest first; empty if it is not known.
    fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = output(self.command("apt-cache").args(["madison", package]))?;
        Ok(table.lines().filter_map(|line| line.split('|').nth(1)).map(|version| version.trim().to_owned()).collect())
    }

    /// LLVM, on which `package` depends, and all the libraries that LLVM needs beyond those of every machine.
    fn libraries(&self, package: &str) -> Result<Vec<String>> {
        let llvm: Vec<String> = self
            .depends(&[package.to_owned()], false)?
            .into_iter()
            .filter(|name| name.starts_with("libllvm"))
            .collect();
        let mut all = self.depends(&llvm, true)?;
        all.extend(llvm);
        all.retain(|name| !OF_THE_MACHINE.contains(&name.as_str()));
        Ok(all)
    }

    /// What these packages depend on, directly or all the way down.
    fn depends(&self, packages: &[String], all: bool) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--important"]);
        if all {
            command.arg("--recurse");
        }
        let tree = output(command.args(packages))?;
        Ok(dependencies(&tree))
    }

    /// Fetches the packages into `folder` and names the archives.
    fn download(&self, folder: &Path, packages: &[String]) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder)?;
        run(self.command("apt-get").arg("download").args(packages).current_dir(folder))
            .context("fetching the packages failed; apt's own message is above")?;
        let mut archives = Vec::new();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                archives.push(path);
            }
        }
        Ok(archives)
    }
}

/// The names in the output of `apt-cache depends`: lines such as `  Depends: libffi8` or ` |Depends: …`.
fn dependencies(tree: &str) -> Vec<String> {
    let mut names: Vec<String> = tree
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '|']).split_once("Depends: "))
        // A name in angle brackets is a virtual package: nothing to fetch.
        .filter(|(kind, name)| matches!(*kind, "" | "Pre") && !name.starts_with('<'))
        .map(|(_, name)| name.split(':').next().unwrap_or(name).trim().to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The newest compiler that is new enough.
fn newest(families: &[Family]) -> Option<&Family> {
    families
        .iter()
        .filter(|family| release(&family.version) >= release(NEEDED))
        .max_by_key(|family| release(&family.version))
}

/// Major and minor number of a version such as `1.96.0+dfsg1-1~deb12u2`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// `rust-lld` of the compiler at hand: Debian's packages have no linker for WebAssembly.
fn linker(rustc: &OsString) -> Result<PathBuf> {
    let host = output(Command::new(rustc).arg("-vV"))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .with_context(|| format!("`{} -vV` does not say what it runs on", rustc.to_string_lossy()))?;
    let path = sysroot(rustc)?.join("lib/rustlib").join(host).join("bin/rust-lld");
    ensure!(
        path.exists(),
        "`{}` has no `rust-lld`, which links WebAssembly on {ARCH}; use rustup's toolchain",
        rustc.to_string_lossy()
    );
    Ok(path)
}

/// The first file under `folder` whose name is wanted, in the order of their names. Links are not followed.
fn find(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let found = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), wanted)
        } else {
            wanted(&entry.file_name().to_string_lossy()).then(|| entry.path())
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.with_context(|| format!("cannot remove `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(suffix: &str, version: &str) -> Family {
        Family { suffix: suffix.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn the_newest_release_is_taken_and_old_ones_never() {
        let families = [
            family("", "1.63.0+dfsg1-2"),
            family("-web", "1.196.0+dfsg1-1~deb12u2"),
            family("-1.99", "1.99.1+dfsg0ubuntu1"),
        ];
        assert_eq!(newest(&families), Some(&families[1]));
        assert_eq!(newest(&families[..1]), None);
    }

    #[test]
    fn the_dependencies_are_read_without_virtual_packages_and_the_machine_architecture() {
        let tree = "libllvm22\n  Depends: libc6\n  PreDepends: zlib1g:amd64\n |Depends: libffi8\n  Depends: <awk>\n\
                    libc6\n  Depends: libgcc-s1\n  Breaks: libold\n";
        assert_eq!(dependencies(tree), ["libc6", "libffi8", "libgcc-s1", "zlib1g"]);
    }
}
