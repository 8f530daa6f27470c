//! A Rust compiler for the targets that guests are built for.
//!
//! Usually the compiler at hand has them already or `rustup` adds them. Where rustup's server cannot be reached, they
//! are made from Debian's packages ([`debian`]), which takes a minute or two once per checkout.

mod debian;

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{exists, lock, output, run_for, say};
use crate::workspace::Workspace;

/// What guests are built for: with WASI, and as pure functions without any import.
pub(crate) const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-unknown-unknown"];

/// Two downloads of about 20 MB each; a server that cannot be reached mostly says so at once.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// Where the compiler may come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Whatever works, the quickest first.
    Any,
    /// The targets of the compiler at hand, added by `rustup` if need be.
    Rustup,
    /// Debian's packages, even if the compiler at hand has the targets.
    Debian,
}

impl FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "any" => Self::Any,
            "rustup" => Self::Rustup,
            "debian" => Self::Debian,
            _ => bail!("a compiler comes from `any`, `rustup` or `debian`, not from `{name}`"),
        })
    }
}

/// A compiler that has both of [`TARGETS`].
#[derive(Debug)]
pub(crate) struct GuestCompiler {
    rustc: OsString,
}

impl GuestCompiler {
    /// Finds or makes one. Safe to call from several processes at once: one works, the others wait for it.
    pub(crate) fn ensure(workspace: &Workspace, source: Source) -> Result<Self> {
        let at_hand = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        let debian = debian::Toolchain::new(workspace.output().join("wasm-toolchain"));
        let ready = |source| {
            let packaged = || debian.finished().map(PathBuf::into_os_string);
            Ok::<_, anyhow::Error>(match source {
                Source::Debian => packaged(),
                Source::Rustup if has_targets(&at_hand)? => Some(at_hand.clone()),
                Source::Rustup => None,
                Source::Any if has_targets(&at_hand)? => Some(at_hand.clone()),
                Source::Any => packaged(),
            })
        };
        if let Some(rustc) = ready(source)? {
            return Ok(Self { rustc });
        }

        let _lock = lock(&workspace.output().join("wasm-toolchain.lock"))?;
        if let Some(rustc) = ready(source)? {
            return Ok(Self { rustc });
        }
        let mut failures = String::new();
        if source != Source::Debian {
            match add_with_rustup().and_then(|()| has_targets(&at_hand)) {
                Ok(true) => return Ok(Self { rustc: at_hand }),
                Ok(false) => note(&mut failures, "rustup", "it added them to another compiler than `rustc`"),
                Err(error) => note(&mut failures, "rustup", &format!("{error:#}")),
            }
        }
        if source != Source::Rustup {
            match debian.make(&at_hand) {
                Ok(rustc) => {
                    return Ok(Self { rustc: rustc.into() });
                }
                Err(error) => note(&mut failures, "Debian's packages", &format!("{error:#}")),
            }
        }
        bail!(
            "no Rust compiler for {}{failures}\n  \
             To go on, make `rustup target add {}` work, or set RUSTC to a compiler that has both.",
            TARGETS.join(" and "),
            TARGETS.join(" "),
        )
    }

    /// Where cargo builds with this compiler: apart from the host's, since it may be another release, and cargo would
    /// throw the artefacts of one away each time it sees the other.
    pub(crate) fn target_folder(workspace: &Workspace) -> PathBuf {
        workspace.output().join("guest-build")
    }

    /// Makes `command`, a cargo or a `farm build`, use this compiler.
    pub(crate) fn apply(&self, workspace: &Workspace, command: &mut Command) {
        command.env("RUSTC", &self.rustc).env("CARGO_TARGET_DIR", Self::target_folder(workspace));
    }
}

/// Adds one line to the reasons why there is no compiler.
fn note(failures: &mut String, source: &str, reason: &str) {
    say(format!("{source}: {reason}"));
    // Writing to a `String` cannot fail.
    let _ = write!(failures, "\n  {source}: {reason}");
}

/// The top folder of what belongs to this compiler.
fn sysroot(rustc: &OsString) -> Result<PathBuf> {
    let printed = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(printed.trim_end()))
}

fn has_targets(rustc: &OsString) -> Result<bool> {
    let rustlib = sysroot(rustc)?.join("lib").join("rustlib");
    // An interrupted rustup can leave an empty folder, so look for the standard library itself.
    Ok(TARGETS.iter().all(|target| {
        fs::read_dir(rustlib.join(target).join("lib"))
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
    }))
}

fn add_with_rustup() -> Result<()> {
    if !exists("rustup") {
        bail!("there is no `rustup` on the PATH");
    }
    say(format!("rustup target add {} (for up to {} s)", TARGETS.join(" "), RUSTUP_LIMIT.as_secs()));
    run_for(Command::new("rustup").args(["target", "add"]).args(TARGETS), RUSTUP_LIMIT)
}
