//! What carries a task from one worker to the next: a word of its worker's end, and a state.

use std::sync::Arc;

use farm_proto::message::MAX_CHECKPOINT;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Linker as ComponentLinker, Lower, WasmList};
use wasmtime::{Caller, Linker, Module, Result, StoreContextMut};

use super::failure::Refusal;
use super::state::State;

/// Where a sandbox's tasks leave their states, and get them from. It is called while a task runs, which waits for it.
pub trait Carrier: Send + Sync {
    /// Whether this worker is about to go. Stays true.
    fn should_stop(&self) -> bool;
    /// Keeps a state of the running task, of at most [`MAX_CHECKPOINT`] bytes, in the place of the one before.
    fn keep(&self, task: u64, state: &[u8]);
    /// What an earlier attempt of the running task has kept.
    fn restored(&self, task: u64) -> Option<Arc<[u8]>>;
}

/// What component modules import it by.
const INTERFACE: &str = "farm:function/checkpoint@0.1.0";
/// What core modules do.
const MODULE: &str = "farm";

/// `farm:function/checkpoint.refusal`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(variant)]
enum TooLarge {
    #[component(name = "too-large")]
    TooLarge(u64),
}

/// Offers `farm:function/checkpoint` to a component that asks for it.
pub(super) fn add_to_component_linker(component: &Component, linker: &mut ComponentLinker<State>) -> Result<()> {
    let (wanted, _) = INTERFACE.split_at(INTERFACE.len() - 1);
    let ty = component.component_type();
    let is_it = |(name, item): (&str, ComponentItem)| {
        name.starts_with(wanted) && matches!(item, ComponentItem::ComponentInstance(_))
    };
    if !ty.imports(component.engine()).any(|(name, item)| is_it((name, item.ty))) {
        return Ok(());
    }
    let mut host = linker.instance(INTERFACE)?;
    host.func_wrap("should-stop", |store: StoreContextMut<'_, State>, (): ()| Ok((store.data().should_stop(),)))?;
    host.func_wrap("keep", |store: StoreContextMut<'_, State>, (state,): (WasmList<u8>,)| {
        // Looked at before anything is copied.
        Ok((store.data().keep(state.as_le_slice(&store)).map_err(TooLarge::TooLarge),))
    })?;
    host.func_wrap("restored", |store: StoreContextMut<'_, State>, (): ()| {
        Ok((store.data().restored().map(|state| state.to_vec()),))
    })?;
    host.func_wrap("suspend", |store: StoreContextMut<'_, State>, (state,): (WasmList<u8>,)| -> Result<()> {
        Err(store.data().suspend(state.as_le_slice(&store)).into())
    })
}

/// Offers the same to a core module that asks for it, as functions of the module `farm`:
///
/// * `should_stop() -> i32`: 1 or 0;
/// * `checkpoint(address: i32, length: i32) -> i32`: 0, or 1 if it is too large;
/// * `restored(address: i32, length: i32) -> i32`: how many bytes were kept, or -1 for none. As many of them as `length`
///   says are written; with a length of 0 it only tells how much room is needed;
/// * `suspend(address: i32, length: i32)`: does not return.
///
/// Addresses are of the memory that the module exports as `memory`; a state outside of it ends the task.
pub(super) fn add_to_core_linker(module: &Module, linker: &mut Linker<State>) -> Result<()> {
    if !module.imports().any(|import| import.module() == MODULE) {
        return Ok(());
    }
    linker.func_wrap(MODULE, "should_stop", |caller: Caller<'_, State>| u32::from(caller.data().should_stop()))?;
    linker.func_wrap(
        MODULE,
        "checkpoint",
        |mut caller: Caller<'_, State>, address: u32, length: u32| -> Result<u32> {
            let (memory, state) = memory_and_state(&mut caller)?;
            Ok(u32::from(state.keep(at(memory, address, length)?).is_err()))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "restored",
        |mut caller: Caller<'_, State>, address: u32, length: u32| -> Result<i32> {
            let (memory, state) = memory_and_state(&mut caller)?;
            let Some(kept) = state.restored() else { return Ok(-1) };
            let written = kept.len().min(length as usize);
            at(memory, address, written as u32)?.copy_from_slice(&kept[..written]);
            // No longer than `MAX_CHECKPOINT`.
            Ok(kept.len() as i32)
        },
    )?;
    linker.func_wrap(MODULE, "suspend", |mut caller: Caller<'_, State>, address: u32, length: u32| -> Result<()> {
        let (memory, state) = memory_and_state(&mut caller)?;
        Err(state.suspend(at(memory, address, length)?).into())
    })?;
    Ok(())
}

fn memory_and_state<'a>(caller: &'a mut Caller<'_, State>) -> Result<(&'a mut [u8], &'a State)> {
    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    let (bytes, state) = memory.ok_or(Refusal::NoMemory)?.data_and_store_mut(caller);
    Ok((bytes, state))
}

fn at(memory: &mut [u8], address: u32, length: u32) -> Result<&mut [u8], Refusal> {
    let start = address as usize;
    memory.get_mut(start..start + length as usize).ok_or(Refusal::OutsideMemory)
}

impl State {
    fn should_stop(&self) -> bool {
        self.shared.carrier.get().is_some_and(|carrier| carrier.should_stop())
    }

    /// Keeps a state. The limit is told if it is too large.
    fn keep(&self, state: &[u8]) -> Result<(), u64> {
        if state.len() > MAX_CHECKPOINT {
            return Err(MAX_CHECKPOINT as u64);
        }
        if let Some(carrier) = self.shared.carrier.get() {
            carrier.keep(self.facts.index, state);
        }
        Ok(())
    }

    fn restored(&self) -> Option<Arc<[u8]>> {
        self.shared.carrier.get()?.restored(self.facts.index)
    }

    /// Why the attempt ends.
    fn suspend(&self, state: &[u8]) -> Refusal {
        if !self.should_stop() {
            return Refusal::SuspendedTooSoon;
        }
        match self.keep(state) {
            Ok(()) => Refusal::Suspended,
            Err(_) => Refusal::CheckpointTooLarge { size: state.len() as u64 },
        }
    }
}
