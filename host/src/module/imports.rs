//! What a module may import, and what it can reach by it.

use serde::Serialize;

use super::ModuleError;

/// Something outside of the sandbox that a module could touch, if the job lets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Capability {
    /// Standard input, output and error: captured, never those of the worker.
    Stdio,
    /// Files that the job mounts, and no others.
    Files,
    /// Environment variables and arguments that the job names.
    Environment,
    /// Time, and sleeping.
    Clocks,
    /// Random numbers of the system, unless the job is metered.
    Random,
    /// Sockets and names. Offered so that programs link; every use is refused.
    Network,
    /// Facts of the task, its log, its progress, and what it keeps for its next attempt.
    Task,
}

/// The imports of a module, all of which are offered.
#[derive(Debug, Default)]
pub(super) struct Imports {
    pub(super) names: Vec<String>,
    pub(super) touches: Vec<Capability>,
}

/// Collects imports, and those of them that nobody offers.
#[derive(Debug, Default)]
pub(super) struct ImportScan {
    imports: Imports,
    missing: Vec<String>,
}

impl ImportScan {
    /// An import of a core module.
    pub(super) fn add_core(&mut self, module: &str, name: &str, is_function: bool) {
        let full = format!("{module}.{name}");
        match core_capability(module, name) {
            Some(touches) if is_function => self.touch(touches),
            _ => self.missing.push(full.clone()),
        }
        self.imports.names.push(full);
    }

    /// An import of a component: an interface's name, or that of a function or resource of its world.
    pub(super) fn add_interface(&mut self, name: &str) {
        match interface_capability(name) {
            Some(touches) => self.touch(touches),
            None => self.missing.push(name.to_owned()),
        }
        self.imports.names.push(name.to_owned());
    }

    fn touch(&mut self, capabilities: &[Capability]) {
        self.imports.touches.extend_from_slice(capabilities);
    }

    pub(super) fn finish(mut self) -> Result<Imports, ModuleError> {
        if !self.missing.is_empty() {
            return Err(ModuleError::MissingImports { names: self.missing });
        }
        self.imports.touches.sort_unstable();
        self.imports.touches.dedup();
        Ok(self.imports)
    }
}

/// What a core import reaches; `None` if it is not offered.
fn core_capability(module: &str, name: &str) -> Option<&'static [Capability]> {
    match module {
        "wasi_snapshot_preview1" => preview1_capability(name),
        "env" => match name {
            "abort" | "seed" | "emscripten_notify_memory_growth" => Some(&[]),
            "trace" => Some(&[Capability::Task]),
            _ => None,
        },
        "farm" => match name {
            "should_stop" | "checkpoint" | "restored" | "suspend" => Some(&[Capability::Task]),
            _ => None,
        },
        _ => None,
    }
}

/// What a function of WASI 0.1 reaches; `None` if there is no such function.
fn preview1_capability(name: &str) -> Option<&'static [Capability]> {
    Some(match name {
        "args_get" | "args_sizes_get" | "environ_get" | "environ_sizes_get" => &[Capability::Environment],
        "clock_res_get" | "clock_time_get" | "poll_oneoff" => &[Capability::Clocks],
        "random_get" => &[Capability::Random],
        "sock_accept" | "sock_recv" | "sock_send" | "sock_shutdown" => &[Capability::Network],
        "fd_close"
        | "fd_fdstat_get"
        | "fd_fdstat_set_flags"
        | "fd_fdstat_set_rights"
        | "fd_read"
        | "fd_renumber"
        | "fd_seek"
        | "fd_tell"
        | "fd_write" => &[Capability::Stdio],
        "fd_advise"
        | "fd_allocate"
        | "fd_datasync"
        | "fd_filestat_get"
        | "fd_filestat_set_size"
        | "fd_filestat_set_times"
        | "fd_pread"
        | "fd_prestat_dir_name"
        | "fd_prestat_get"
        | "fd_pwrite"
        | "fd_readdir"
        | "fd_sync" => &[Capability::Files],
        "path_create_directory"
        | "path_filestat_get"
        | "path_filestat_set_times"
        | "path_link"
        | "path_open"
        | "path_readlink"
        | "path_remove_directory"
        | "path_rename"
        | "path_symlink"
        | "path_unlink_file" => &[Capability::Files],
        "proc_exit" | "proc_raise" | "sched_yield" => &[],
        _ => return None,
    })
}

/// What an interface reaches; `None` if it is not offered. Any 0.2 release of WASI and any 0.1 release of
/// `farm:function` is: releases of one track are compatible with each other.
fn interface_capability(name: &str) -> Option<&'static [Capability]> {
    let (interface, version) = name.split_once('@')?;
    let in_track = |track: &str| version == track.trim_end_matches('.') || version.starts_with(track);
    if let Some(farm) = interface.strip_prefix("farm:function/") {
        return match farm {
            "host" | "checkpoint" if in_track("0.1.") => Some(&[Capability::Task]),
            "panic" if in_track("0.1.") => Some(&[]),
            _ => None,
        };
    }
    if !in_track("0.2.") {
        return None;
    }
    let (package, local) = interface.strip_prefix("wasi:")?.split_once('/')?;
    Some(match (package, local) {
        ("cli", "stdin" | "stdout" | "stderr") => &[Capability::Stdio],
        ("cli", "terminal-input" | "terminal-output" | "terminal-stdin" | "terminal-stdout" | "terminal-stderr") => {
            &[Capability::Stdio]
        }
        ("cli", "environment") => &[Capability::Environment],
        ("cli", "exit") | ("io", "error" | "poll" | "streams") => &[],
        ("clocks", "monotonic-clock" | "wall-clock") => &[Capability::Clocks],
        ("filesystem", "preopens" | "types") => &[Capability::Files],
        ("random", "random" | "insecure" | "insecure-seed") => &[Capability::Random],
        (
            "sockets",
            "instance-network" | "ip-name-lookup" | "network" | "tcp" | "tcp-create-socket" | "udp"
            | "udp-create-socket",
        ) => &[Capability::Network],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_one_track_are_offered_and_others_are_not() {
        for offered in ["wasi:cli/stdin@0.2.0", "wasi:cli/stdin@0.2.12", "farm:function/host@0.1.0"] {
            assert!(interface_capability(offered).is_some(), "{offered}");
        }
        for missing in [
            "wasi:cli/stdin@0.3.0",
            "wasi:cli/stdin",
            "wasi:http/outgoing-handler@0.2.0",
            "farm:function/host@0.2.0",
            "my:own/thing@0.2.0",
            "log",
        ] {
            assert!(interface_capability(missing).is_none(), "{missing}");
        }
    }

    #[test]
    fn all_missing_imports_are_named() {
        let mut scan = ImportScan::default();
        scan.add_core("env", "memory", false);
        scan.add_core("wasi_snapshot_preview1", "fd_write", true);
        scan.add_core("wasi_snapshot_preview1", "sock_connect", true);
        let Err(ModuleError::MissingImports { names }) = scan.finish() else {
            panic!("two imports are missing");
        };
        assert_eq!(names, ["env.memory", "wasi_snapshot_preview1.sock_connect"]);
    }
}
