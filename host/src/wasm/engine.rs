//! The two wasmtime configurations of the host: one that runs guests, one that only compiles them.
//!
//! The rule that must not break: both generate the same code. What the compiling child writes is
//! loaded by the running engine, so every flag that shapes code stands in `codegen` and nowhere
//! else; a test compares the compatibility hashes.

use std::hash::{Hash, Hasher};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::event::Digest;

/// Linear memory one slot of the pool can hold at most: what `limits.memory` can be raised to. A
/// slot reserves as much address space either way.
pub const MEMORY_BYTES_MAX: usize = 1 << 32;
const _: () = assert!(MEMORY_BYTES_MAX as u64 == crate::limits::GUEST_MEMORY_MAX.bytes());
/// Stack of a guest: deeper recursion ends as a trap.
pub const GUEST_STACK_BYTES_MAX: usize = 512 * 1024;
/// Frames kept of a guest's backtrace.
pub const BACKTRACE_FRAMES_MAX: usize = 32;
/// Live instances the pool has room for, however many workers and plugins there are. Each reserves
/// 4 GiB of address space (never of memory) for each of its linear memories, of the 128 TiB a process has.
pub const INSTANCES_MAX: usize = 4096;
/// Linear memories that the pool has for each, on average.
pub const MEMORIES_PER_INSTANCE: u32 = 2;
/// Core instances inside one component. Rust takes 3, QuickJS more than 8, Python more than 20.
pub const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 64;
/// Linear memories inside one component: its own, and those of adapters. QuickJS takes 3. They share
/// one `limits.memory`.
pub const MEMORIES_PER_COMPONENT_MAX: u32 = 8;
/// Tables inside one component: its own, and those of the shims that adapters need.
pub const TABLES_PER_COMPONENT_MAX: u32 = 16;
/// Elements of one table: functions that are called through pointers.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// What the pool of the running engine is sized from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEngineOptions {
    /// Warm instances of one plugin that there is room for: one for each of its workers, some for
    /// its queries.
    pub workers: usize,
    /// Plugins that keep as many.
    pub plugins_max: usize,
    /// Bytes of linear memory an instance may reach, whatever its manifest says.
    pub memory_bytes_max: usize,
}

impl Default for HostEngineOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { workers, plugins_max: 256, memory_bytes_max: MEMORY_BYTES_MAX }
    }
}

impl HostEngineOptions {
    /// Instances that can be alive at the same time: one for each worker and plugin, and as many
    /// again as there are workers for reloads and fresh runs.
    #[must_use]
    pub fn instances_max(&self) -> usize {
        let warm = self.workers.saturating_mul(self.plugins_max);
        warm.saturating_add(self.workers.saturating_mul(2)).clamp(64, INSTANCES_MAX)
    }

    /// Bytes of address space for their linear memories.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        let memories = self.instances_max().saturating_mul(MEMORIES_PER_INSTANCE as usize);
        memories.saturating_mul(MEMORY_BYTES_MAX)
    }
}

/// The configuration of the engine that runs guests: pooled instances, and code generation on
/// several threads for the compiles that happen in this process (`Compiler::InProcess`).
#[must_use]
pub fn host_config(options: HostEngineOptions) -> Config {
    let mut config = codegen();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)))
        .parallel_compilation(true);
    config
}

/// The configuration of the child that only compiles: it reserves no pool, because it lives under
/// a limit of address space, and one thread, because its limit of CPU time counts all threads.
#[must_use]
pub fn compile_config() -> Config {
    let mut config = codegen();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand).parallel_compilation(false);
    config
}

/// Everything that shapes generated code. Fuel and epochs are compiled in; numbers come out the
/// same on every machine, so that a replay does.
fn codegen() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(GUEST_STACK_BYTES_MAX)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES_MAX))
        .generate_address_map(true)
        .wasm_component_model(true)
        .wasm_memory64(false)
        // Compiled in by another crate's feature one day, it would cost each call a third.
        .concurrency_support(false);
    config
}

fn pool(options: HostEngineOptions) -> PoolingAllocationConfig {
    let instances = u32::try_from(options.instances_max()).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX)
        .total_memories(instances.saturating_mul(MEMORIES_PER_INSTANCE))
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_memories_per_module(1)
        .max_memory_size(options.memory_bytes_max)
        .total_tables(instances.saturating_mul(4))
        .max_tables_per_component(TABLES_PER_COMPONENT_MAX)
        .max_tables_per_module(TABLES_PER_COMPONENT_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .total_stacks(instances)
        // Resetting what a small guest touched by writing zeros is cheaper than giving the pages
        // back; larger guests still give theirs back, so that memory stays bounded.
        .linear_memory_keep_resident(64 * 1024)
        .table_keep_resident(16 * 1024)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Names everything that a compiled module depends on beside its own bytes: wasmtime, its flags,
/// the features of this CPU. Code is only ever loaded under the name it was compiled under.
#[must_use]
pub fn code_identity(engine: &Engine) -> Digest {
    let mut hasher = Blake3Hasher(blake3::Hasher::new_derive_key("tidegate code identity v1"));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Digest(*hasher.0.finalize().as_bytes())
}

/// Lets anything that is `Hash` be digested in full: the 64 bits of `Hasher::finish` are too few
/// to name compiled code by.
struct Blake3Hasher(blake3::Hasher);

impl Hasher for Blake3Hasher {
    fn finish(&self) -> u64 {
        let mut first = [0; 8];
        self.0.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_configurations_generate_the_same_code() {
        let host = Engine::new(&host_config(HostEngineOptions::default())).unwrap();
        let child = Engine::new(&compile_config()).unwrap();
        assert_eq!(code_identity(&host), code_identity(&child));
    }

    #[test]
    fn another_flag_is_another_identity() {
        let child = Engine::new(&compile_config()).unwrap();
        let other = Engine::new(compile_config().consume_fuel(false)).unwrap();
        assert_ne!(code_identity(&other), code_identity(&child));
    }

    #[test]
    fn code_of_the_child_loads_and_runs_in_the_pool() {
        let child = Engine::new(&compile_config()).unwrap();
        let code = child.precompile_module(b"(module (func (export \"f\")))").unwrap();
        let host = Engine::new(&host_config(HostEngineOptions::default())).unwrap();
        #[allow(unsafe_code, reason = "the code was compiled two lines above")]
        let module = unsafe { wasmtime::Module::deserialize(&host, code) }.unwrap();
        let mut store = wasmtime::Store::new(&host, ());
        store.set_fuel(1_000).unwrap();
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        f.call(&mut store, ()).unwrap();
    }

    #[test]
    fn the_pool_stays_within_the_address_space() {
        let options = HostEngineOptions { workers: 512, plugins_max: 10_000, ..Default::default() };
        assert_eq!(options.instances_max(), INSTANCES_MAX);
        Engine::new(&host_config(options)).unwrap();
    }
}
