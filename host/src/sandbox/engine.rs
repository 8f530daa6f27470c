//! The engines: one per determinism profile and process, with the knobs that make a fresh instance cheap.
//!
//! Instances come from a pool, because asking the kernel for memory is most of what an instance costs. The pool
//! reserves address space by the hundred gigabytes, though it uses hardly any memory; where that is limited (SLURM
//! sites set `ulimit -v`) engines do without. So there are three ways to allocate, and two ways to compile:
//!
//! | allocation | compiled for | taken |
//! |---|---|---|
//! | pooled | [`Layout::Reserved`] | by default |
//! | on demand | [`Layout::Reserved`] | by modules that are too big for the pool, e.g. of hundreds of tables |
//! | on demand | [`Layout::Compact`] | where the pool cannot be had |
//!
//! A process finds its layout out once, by trying, and what it compiles or opens is for that layout. Processes that
//! one worker starts find the same.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;
use std::sync::OnceLock;

use farm_proto::job::Profile;
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::STACK_SIZE;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Of a linear memory or table, how much is cleared by hand and kept instead of being given back to the kernel. Guests
/// dirty less than this for most tasks.
const KEEP_RESIDENT: usize = 2 * MIB;
/// Interpreters with a hundred thousand functions hold a pointer to each.
const POOLED_TABLE_ELEMENTS: usize = 100_000;
/// The largest module seen so far needs 9 MiB.
const POOLED_INSTANCE_SIZE: usize = 16 * MIB;
/// One task runs at a time. Several memories, because a component is several modules, and several of each.
const POOLED_MEMORIES: u32 = 16;
const POOLED_TABLES: u32 = 64;
const POOLED_CORE_INSTANCES: u32 = 128;
/// A table holds a pointer for each element.
const TABLE_KEEP_RESIDENT: usize = POOLED_TABLE_ELEMENTS * size_of::<usize>();

/// How linear memories lie in the address space, which code is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// 4 GiB are reserved for each, so that hardly any access needs a check.
    Reserved,
    /// No more address space than memory; each access is checked. Up to a third slower.
    Compact,
}

impl Layout {
    /// The layout that this process can have; the same for as long as it runs.
    pub fn of_process() -> Self {
        match pooled(Profile::Fast) {
            Some(_) => Self::Reserved,
            None => Self::Compact,
        }
    }

    /// Its name on the command line of the compiler.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Compact => "compact",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `reserved` or `compact`")]
pub struct ParseLayoutError;

impl FromStr for Layout {
    type Err = ParseLayoutError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Reserved, Self::Compact].into_iter().find(|layout| layout.as_str() == text).ok_or(ParseLayoutError)
    }
}

/// The settings that compiled code depends on, and those that cost nothing.
fn config(profile: Profile, layout: Layout) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .max_wasm_stack(STACK_SIZE)
        // Unused, and not allowed to be smaller.
        .async_stack_size(STACK_SIZE)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        // Exceptions live on a heap that is collected; its other users stay out.
        .wasm_exceptions(true)
        .collector(Collector::Copying)
        .wasm_gc(false)
        .wasm_tail_call(true)
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .wasm_extended_const(true)
        .memory_init_cow(true);
    if profile == Profile::Metered {
        config.consume_fuel(true).cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    if layout == Layout::Compact {
        config.memory_reservation(0).memory_guard_size(64 * KIB as u64).memory_reservation_for_growth(8 * MIB as u64);
    }
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(POOLED_MEMORIES)
        .total_tables(POOLED_TABLES)
        .total_core_instances(POOLED_CORE_INSTANCES)
        .total_component_instances(POOLED_CORE_INSTANCES)
        .total_gc_heaps(POOLED_MEMORIES)
        .total_stacks(1)
        .max_memories_per_module(POOLED_MEMORIES)
        .max_tables_per_module(POOLED_TABLES)
        .max_memories_per_component(POOLED_MEMORIES)
        .max_tables_per_component(POOLED_TABLES)
        .max_core_instances_per_component(POOLED_CORE_INSTANCES)
        .max_core_instance_size(POOLED_INSTANCE_SIZE)
        .max_component_instance_size(POOLED_INSTANCE_SIZE)
        .table_elements(POOLED_TABLE_ELEMENTS);
    // Without the scan all of what is kept would be cleared for each task, which costs more than it saves.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(TABLE_KEEP_RESIDENT);
    }
    pool
}

/// The engine with a pool, or `None` where there is no address space for one.
pub(super) fn pooled(profile: Profile) -> Option<&'static Engine> {
    static ENGINES: [OnceLock<Option<Engine>>; 2] = [const { OnceLock::new() }; 2];
    ENGINES[profile as usize]
        .get_or_init(|| {
            let mut config = config(profile, Layout::Reserved);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
            Engine::new(&config).inspect_err(|error| tracing::debug!("no pool, allocating on demand: {error:#}")).ok()
        })
        .as_ref()
}

/// The engine without a pool.
pub(super) fn on_demand(profile: Profile, layout: Layout) -> wasmtime::Result<&'static Engine> {
    static ENGINES: [OnceLock<Engine>; 4] = [const { OnceLock::new() }; 4];
    let cell = &ENGINES[profile as usize * 2 + layout as usize];
    if let Some(engine) = cell.get() {
        return Ok(engine);
    }
    let engine = Engine::new(&config(profile, layout))?;
    Ok(cell.get_or_init(|| engine))
}

/// An engine that only compiles: it needs no address space, and its artefacts suit the engines that run.
pub(crate) fn compiler(profile: Profile, layout: Layout) -> wasmtime::Result<Engine> {
    Engine::new(&config(profile, layout))
}

/// What artefacts for this profile and layout have in common. Differs between versions of wasmtime, kinds of
/// processor, and settings.
///
/// # Errors
///
/// This machine cannot run compiled code at all.
pub fn compatibility(profile: Profile, layout: Layout) -> wasmtime::Result<u64> {
    let mut hasher = DefaultHasher::new();
    on_demand(profile, layout)?.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hasher.finish())
}
