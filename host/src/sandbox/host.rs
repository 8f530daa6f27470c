//! What guests may call besides WASI.

use wasmtime::component::{ComponentType, Lift, Linker as ComponentLinker, Lower, WasmStr};
use wasmtime::{Caller, Linker, Result, StoreContextMut};

use super::failure::Refusal;
use super::state::{PanicReport, State};

/// `farm:function/host.level`.
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "the variants are made by `Lift`, from the guest's bytes")]
enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// `farm:function/host.task-info`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct TaskInfo {
    job: u64,
    index: u64,
    attempt: u32,
    seed: u64,
}

/// Offers `farm:function/host` and `farm:function/panic`.
pub(super) fn add_to_component_linker(linker: &mut ComponentLinker<State>) -> Result<()> {
    let mut host = linker.instance("farm:function/host@0.1.0")?;
    host.func_wrap("log", |mut store: StoreContextMut<'_, State>, (level, message): (Level, WasmStr)| {
        if !store.data().log_truncated {
            let message = message.to_str(&store)?.into_owned();
            store.data_mut().log(level.as_str(), &message);
        }
        Ok(())
    })?;
    host.func_wrap("progress", |store: StoreContextMut<'_, State>, (done, total): (u64, u64)| {
        let state = store.data();
        if let Some(progress) = &state.progress {
            progress(state.facts.index, done, total);
        }
        Ok(())
    })?;
    host.func_wrap("task", |store: StoreContextMut<'_, State>, (): ()| {
        let facts = store.data().facts;
        Ok((TaskInfo { job: facts.job, index: facts.index, attempt: facts.attempt, seed: facts.seed },))
    })?;
    linker.instance("farm:function/panic@0.1.0")?.func_wrap(
        "panicked",
        |mut store: StoreContextMut<'_, State>, (message, file, line, _column): (String, String, u32, u32)| {
            store.data_mut().panic = Some(PanicReport { message, file, line });
            Ok(())
        },
    )?;
    Ok(())
}

/// Offers what compilers other than Rust's expect of any host.
///
/// AssemblyScript imports `env.abort` for its assertions, `env.seed` for `Math.random` and `env.trace`; Emscripten's
/// stand-alone modules tell `env.emscripten_notify_memory_growth` that a memory has grown.
pub(super) fn add_to_core_linker(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        "env",
        "abort",
        |mut caller: Caller<'_, State>, message: u32, file: u32, line: u32, _column: u32| -> Result<()> {
            let message = utf16_at(&mut caller, message).unwrap_or_else(|| "abort".to_owned());
            let file = utf16_at(&mut caller, file).unwrap_or_default();
            caller.data_mut().panic = Some(PanicReport { message, file, line });
            Err(Refusal::Aborted.into())
        },
    )?;
    linker.func_wrap("env", "seed", |caller: Caller<'_, State>| {
        // AssemblyScript takes the bits of a float between 0 and 1 for its seed.
        (caller.data().facts.seed >> 11) as f64 / (1_u64 << 53) as f64
    })?;
    linker.func_wrap(
        "env",
        "trace",
        |mut caller: Caller<'_, State>, message: u32, count: i32, a: f64, b: f64, c: f64, d: f64, e: f64| {
            if let Some(mut message) = utf16_at(&mut caller, message) {
                let values = [a, b, c, d, e];
                let count = usize::try_from(count).unwrap_or(0).min(values.len());
                for value in &values[..count] {
                    message.push_str(&format!(" {value}"));
                }
                caller.data_mut().log("debug", &message);
            }
        },
    )?;
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: u32| {})?;
    Ok(())
}

/// An AssemblyScript string: UTF-16, its length in bytes in front of it. Long ones are cut.
fn utf16_at(caller: &mut Caller<'_, State>, address: u32) -> Option<String> {
    const LONGEST: usize = 8 << 10;
    let memory = caller.get_export("memory")?.into_memory()?;
    let data = memory.data(&caller);
    let address = usize::try_from(address).ok()?;
    let length = data.get(address.checked_sub(4)?..address)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    let length = usize::try_from(length).ok()?.min(LONGEST);
    let units: Vec<u16> = data
        .get(address..address.checked_add(length)?)?
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    Some(String::from_utf16_lossy(&units))
}
