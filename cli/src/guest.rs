//! Function crates: making one from a template, and building it to a module.

use std::fs;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Where the SDK of this very build lies, if it was built from a checkout that is still there.
const SDK_SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk");

/// The two targets of a function crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum Target {
    /// No imports at all: no files, no clock, no environment. The cheapest, and provably pure.
    #[serde(rename = "wasm32-unknown-unknown")]
    #[value(name = "wasm32-unknown-unknown", alias = "pure")]
    Pure,
    /// WASI: input files, environment, standard output.
    #[serde(rename = "wasm32-wasip1")]
    #[value(name = "wasm32-wasip1", alias = "wasi")]
    Wasi,
}

impl Target {
    /// Its name to rustc.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::Pure => "wasm32-unknown-unknown",
            Self::Wasi => "wasm32-wasip1",
        }
    }
}

/// Why a function crate cannot be made or built.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("{0} exists already")]
    Exists(PathBuf),
    #[error("{0:?} is no name for a crate: use letters, digits, `-` and `_`, and begin with a letter")]
    Name(String),
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no Cargo.toml in {0}")]
    NoCrate(PathBuf),
    #[error("cannot run cargo")]
    Cargo(#[source] io::Error),
    #[error("cargo failed{}", said(.0))]
    Build(String),
    #[error("the Rust target {} is not installed", .0.triple())]
    NoTarget(Target),
    #[error("{0} is not a function crate: it needs `crate-type = [\"cdylib\", \"rlib\"]` in `[lib]`")]
    NotCdylib(String),
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// Makes the crate `path`, with a function, a test of it, and arguments to try it on. Gives its files.
///
/// # Errors
///
/// The folder exists, or cannot be written.
pub fn new_crate(path: &Path, wasi: bool, sdk: Option<&Path>) -> Result<Vec<PathBuf>, GuestError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(good) {
        return Err(GuestError::Name(name));
    }
    if path.exists() {
        return Err(GuestError::Exists(path.to_owned()));
    }
    let source = sdk.map(Path::to_owned).or_else(|| Path::new(SDK_SOURCE).canonicalize().ok());
    let sdk = source.map_or_else(
        || format!("version = \"{}\"", env!("CARGO_PKG_VERSION")),
        |path| format!("path = {:?}", path.display().to_string()),
    );
    let target = if wasi { Target::Wasi } else { Target::Pure };
    let files = [
        (
            "Cargo.toml",
            include_str!("template/Cargo.toml.in")
                .replace("{{name}}", &name)
                .replace("{{sdk}}", &sdk)
                .replace("{{target}}", target.triple()),
        ),
        ("src/lib.rs", include_str!("template/lib.rs.in").to_owned()),
        ("args.json", "[3, 4, 5]\n".to_owned()),
        (".gitignore", "/target\n".to_owned()),
    ];
    let mut written = Vec::new();
    for (file, text) in files {
        let file = path.join(file);
        let write = |source| GuestError::Write { path: file.clone(), source };
        fs::create_dir_all(file.parent().unwrap_or(path)).map_err(write)?;
        fs::write(&file, text).map_err(write)?;
        written.push(file);
    }
    Ok(written)
}

/// What to build, and how it was decided.
#[derive(Debug)]
pub struct Plan {
    package: String,
    manifest: PathBuf,
    target_folder: PathBuf,
    pub target: Target,
    /// Why that target, for people.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<CargoTarget>,
    metadata: Option<PackageMetadata>,
}

#[derive(Debug, Deserialize)]
struct CargoTarget {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct PackageMetadata {
    farm: Option<FarmMetadata>,
}

/// `[package.metadata.farm]` of a function crate.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FarmMetadata {
    target: Option<Target>,
}

/// Decides how to build the crate in `folder`: for `asked`, for what its Cargo.toml says, or for what its sources use.
///
/// # Errors
///
/// There is no crate, or it is no function crate.
pub fn plan(folder: &Path, asked: Option<Target>) -> Result<Plan, GuestError> {
    let manifest = folder.join("Cargo.toml");
    let manifest = manifest.canonicalize().map_err(|_| GuestError::NoCrate(folder.to_owned()))?;
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
        .arg(&manifest)
        .stderr(Stdio::piped())
        .output()
        .map_err(GuestError::Cargo)?;
    if !output.status.success() {
        return Err(GuestError::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|error| GuestError::Build(error.to_string()))?;
    let package = metadata.packages.into_iter().find(|package| package.manifest_path == manifest);
    let package = package.ok_or_else(|| GuestError::NoCrate(folder.to_owned()))?;
    if !package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "cdylib")) {
        return Err(GuestError::NotCdylib(package.name));
    }
    let farm = package.metadata.and_then(|metadata| metadata.farm);
    let (target, reason) = match (asked, farm.as_ref().and_then(|farm| farm.target)) {
        (Some(target), _) => (target, "as asked".to_owned()),
        (None, Some(target)) => (target, "as its Cargo.toml says".to_owned()),
        (None, None) => match find_wasi_use(&folder.join("src")) {
            Some((what, place)) => (Target::Wasi, format!("because of `{what}` in {place}")),
            None => (Target::Pure, "because it uses nothing of WASI".to_owned()),
        },
    };
    Ok(Plan { package: package.name, manifest, target_folder: metadata.target_directory, target, reason })
}

/// What gives away that a function wants WASI. Only a hint, and so only a default.
const WASI_USES: [&str; 9] =
    ["println!", "print!", "dbg!", "std::fs", "std::env", "std::io", "SystemTime", "Instant::now", "std::process"];

fn find_wasi_use(folder: &Path) -> Option<(&'static str, String)> {
    let mut entries: Vec<_> = folder.read_dir().ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if let Some(found) = find_wasi_use(&path) {
                return Some(found);
            }
            continue;
        }
        let Some(file) =
            path.extension().filter(|extension| *extension == "rs").and_then(|_| fs::File::open(&path).ok())
        else {
            continue;
        };
        for (number, line) in io::BufReader::new(file).lines().map_while(Result::ok).enumerate() {
            // Tests run natively, and stand at the end by custom.
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            if let Some(what) = WASI_USES.into_iter().find(|what| code.contains(what)) {
                return Some((what, format!("{}:{}", path.display(), number + 1)));
            }
        }
    }
    None
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.stdin(Stdio::null());
    command
}

/// Builds the crate, showing cargo's messages, and gives the path of the module that cargo made.
///
/// # Errors
///
/// cargo fails, or the target is missing.
pub fn build(plan: &Plan) -> Result<PathBuf, GuestError> {
    let triple = plan.target.triple();
    let status = cargo()
        .args(["build", "--release", "--lib", "--target", triple, "--manifest-path"])
        .arg(&plan.manifest)
        // What a function is built with does not depend on the profile of a workspace that it happens to be in.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .status()
        .map_err(GuestError::Cargo)?;
    if !status.success() {
        return Err(if has_target(plan.target) {
            GuestError::Build(String::new())
        } else {
            GuestError::NoTarget(plan.target)
        });
    }
    let file = format!("{}.wasm", plan.package.replace('-', "_"));
    Ok(plan.target_folder.join(triple).join("release").join(file))
}

/// Whether rustc has the target's standard library.
fn has_target(target: Target) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", target.triple()]).output();
    output.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&path).read_dir().is_ok_and(|mut files| files.next().is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_give_away_what_they_use() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("lib.rs");
        fs::write(&file, "// println!\nfn f() {}\n#[cfg(test)]\nmod t { fn g() { println!() } }\n").expect("a file");
        assert_eq!(find_wasi_use(folder.path()), None);
        fs::write(&file, "fn f() {\n    std::fs::read(\"/in/x\");\n}\n").expect("a file");
        assert_eq!(find_wasi_use(folder.path()), Some(("std::fs", format!("{}:2", file.display()))));
    }

    #[test]
    fn a_template_is_made_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("hello");
        assert_eq!(new_crate(&path, false, None).expect("made").len(), 4);
        assert!(matches!(new_crate(&path, false, None), Err(GuestError::Exists(_))));
        assert!(matches!(new_crate(&folder.path().join("1x"), false, None), Err(GuestError::Name(_))));
    }
}
