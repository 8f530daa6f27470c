//! Modules in WebAssembly text, one behaviour each.

/// Squares an integer.
pub(crate) const SQUARE: &str =
    r#"(module (func (export "square") (param $x i64) (result i64) (i64.mul (local.get $x) (local.get $x))))"#;

/// Two functions with several parameters and results.
pub(crate) const PAIR: &str = r#"(module
    (func (export "sub") (param $a i32) (param $b i32) (result i32) (i32.sub (local.get $a) (local.get $b)))
    (func (export "halves") (param $x f64) (result f64 f64)
        (f64.mul (local.get $x) (f64.const 0.5)) (f64.mul (local.get $x) (f64.const 0.5))))"#;

/// Gives back what it is given.
pub(crate) const IDENTITY: &str = r#"(module
    (func (export "long") (param i64) (result i64) (local.get 0))
    (func (export "real") (param f64) (result f64) (local.get 0)))"#;

/// Squares an even number and traps on an odd one, two calls deep.
pub(crate) const EVEN: &str = r#"(module
    (func $refuse (param $x i64) (if (i64.eqz (i64.and (local.get $x) (i64.const 1))) (then return)) unreachable)
    (func $even (export "even") (param $x i64) (result i64)
        (call $refuse (local.get $x))
        (i64.mul (local.get $x) (local.get $x))))"#;

/// Squares a number after some time of busy work: a few milliseconds for each of 1,000,000 `rounds`.
pub(crate) fn busy(rounds: u64) -> String {
    format!(
        r#"(module (func (export "busy") (param $x i64) (result i64) (local $left i64)
            (local.set $left (i64.const {rounds}))
            (loop $again
                (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                (br_if $again (i64.ne (local.get $left) (i64.const 0))))
            (i64.mul (local.get $x) (local.get $x))))"#
    )
}

/// Never returns for 0; squares anything else.
pub(crate) const SPIN: &str = r#"(module (func (export "spin") (param $x i64) (result i64)
    (if (i64.eqz (local.get $x)) (then (loop $again (br $again))))
    (i64.mul (local.get $x) (local.get $x))))"#;

/// Fills its whole memory of 256 MiB, for ever.
pub(crate) const FILL: &str = r#"(module (memory 4096) (func (export "fill") (param i32)
    (loop $again (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x10000000)) (br $again))))"#;

/// Recurses without end.
pub(crate) const RECURSE: &str = r#"(module (func $deeper (export "deeper") (param i32) (call $deeper (local.get 0)) (call $deeper (local.get 0))))"#;

/// Allocates without end, and gives up when it gets no more.
pub(crate) const ALLOCATE: &str = r#"(module (memory 1) (func (export "allocate") (param i32)
    (loop $again (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)) (br $again))))"#;

/// A WASI command that copies stdin to stdout.
pub(crate) const CAT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $left i32) (local $from i32)
        (loop $again
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const 65536))
            (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
            (local.set $left (i32.load (i32.const 8)))
            (if (i32.eqz (local.get $left)) (then return))
            (local.set $from (i32.const 1024))
            (loop $more
                (i32.store (i32.const 0) (local.get $from))
                (i32.store (i32.const 4) (local.get $left))
                (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
                (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 8))))
                (br_if $more (local.get $left)))
            (br $again))))"#;

/// A WASI command that prints its arguments (`list` is `args`) or its environment (`environ`), each ended by a NUL.
pub(crate) fn prints_list(list: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "{list}_sizes_get" (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "{list}_get" (func $get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $sizes (i32.const 0) (i32.const 4)))
                (drop (call $get (i32.const 1024) (i32.const 4096)))
                (i32.store (i32.const 0) (i32.const 4096))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

/// A WASI command that writes `text` (as WAT writes strings) to a descriptor `times` times and exits with `code`.
pub(crate) fn printer(descriptor: u32, text: &str, times: u32, code: u32) -> String {
    let length = text.len();
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 64) "{text}")
            (func (export "_start") (local $left i32)
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (local.set $left (i32.const {times}))
                (loop $again
                    (drop (call $write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 16)))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $again (local.get $left)))
                (call $exit (i32.const {code}))))"#
    )
}

/// A WASI command that copies what it is given (60 kB at most) to the file `name` in its folder `descriptor`, `times` times
/// over, after `first`, which may call `$mkdir`, `$symlink`, `$link` and `$pause` (for 50 ms), and finds `other` at 512. It
/// traps if the file cannot be opened.
pub(crate) fn leaves(descriptor: u32, name: &str, times: u64, first: &str) -> String {
    let length = name.len();
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_link"
                (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 64) "{name}")
            (data (i32.const 512) "other")
            (func $pause
                (i32.store (i32.const 616) (i32.const 1))
                (i64.store (i32.const 624) (i64.const 50000000))
                (drop (call $poll (i32.const 600) (i32.const 800) (i32.const 1) (i32.const 900))))
            (func (export "_start") (local $left i64)
                {first}
                (if (call $open (i32.const {descriptor}) (i32.const 0) (i32.const 64) (i32.const {length})
                    (i32.const 9) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
                (i32.store (i32.const 0) (i32.const 1024))
                (i32.store (i32.const 4) (i32.const 60000))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (local.set $left (i64.const {times}))
                (loop $again
                    (drop (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 12)))
                    (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                    (br_if $again (i64.ne (local.get $left) (i64.const 0))))))"#
    )
}

/// A WASI command that ends with the exit code that is its input, one digit or two.
pub(crate) const EXIT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (local $code i32)
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 2))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $code (i32.sub (i32.load8_u (i32.const 64)) (i32.const 48)))
        (if (i32.eq (i32.load (i32.const 8)) (i32.const 2)) (then
            (local.set $code (i32.add
                (i32.mul (local.get $code) (i32.const 10))
                (i32.sub (i32.load8_u (i32.const 65)) (i32.const 48))))))
        (call $exit (local.get $code))))"#;

/// A WASI command that sleeps for an hour.
pub(crate) const SLEEP: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        ;; A subscription to the monotonic clock: tag 0 at 8, clock 1 at 16, nanoseconds at 24.
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 512)))))"#;

/// A component whose function gives back a text.
pub(crate) const ECHO: &str = r#"(component
    (core module $m
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (block $enough
                (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
                (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const 65536))))))
            (local.get $at))
        (func (export "echo") (param i32 i32) (result i32)
            (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1)) (i32.const 8))
        (func (export "length") (param i32 i32) (result i32) (local.get 1)))
    (core instance $i (instantiate $m))
    (func (export "echo") (param "text" string) (result string)
        (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
    (func (export "length") (param "text" string) (result u32)
        (canon lift (core func $i "length") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;

/// A component that claims to return a gigabyte.
pub(crate) const RETURN_A_GIGABYTE: &str = r#"(component
    (core module $m
        (memory (export "memory") 16384)
        (func (export "huge") (param i32) (result i32)
            (i32.store (i32.const 0) (i32.const 8))
            (i32.store (i32.const 4) (i32.const 1073741000))
            (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "huge") (param "x" s32) (result string)
        (canon lift (core func $i "huge") (memory (core memory $i "memory")))))"#;

/// A component that squares a number, with this piece of code in front of it, which may look at `$attempt` and `$x`.
fn by_attempt(code: &str) -> String {
    format!(
        r#"(component
            (import "farm:function/host@0.1.0" (instance $host
                (type $info' (record (field "job" u64) (field "index" u64) (field "attempt" u32) (field "seed" u64)))
                (export "task-info" (type $info (eq $info')))
                (export "task" (func (result $info)))))
            (core module $memory (memory (export "memory") 1))
            (core instance $memory (instantiate $memory))
            (core func $task (canon lower (func $host "task") (memory (core memory $memory "memory"))))
            (core module $m
                (import "host" "task" (func $task (param i32)))
                (import "memory" "memory" (memory 1))
                (func (export "f") (param $x i64) (result i64) (local $attempt i32)
                    (call $task (i32.const 8))
                    (local.set $attempt (i32.load (i32.const 24)))
                    {code}
                    (i64.mul (local.get $x) (local.get $x))))
            (core instance $i (instantiate $m
                (with "host" (instance (export "task" (func $task))))
                (with "memory" (instance $memory))))
            (func (export "f") (param "x" s64) (result s64) (canon lift (core func $i "f"))))"#
    )
}

/// Traps until its task is tried for the third time.
pub(crate) fn third_time() -> String {
    by_attempt("(if (i32.lt_u (local.get $attempt) (i32.const 2)) (then unreachable))")
}

/// Never returns for 0 when that is tried for the first time.
pub(crate) fn hangs_at_first() -> String {
    let is_first = "(i64.eqz (i64.or (local.get $x) (i64.extend_i32_u (local.get $attempt))))";
    by_attempt(&format!("(if {is_first} (then (loop $again (br $again))))"))
}

/// Functions to make graphs of: `square`, `even` (traps on an odd number), `spin` (never returns for 0), `add`, and
/// `minus`, in which the order shows.
pub(crate) const GRAPH: &str = r#"(module
    (func (export "square") (param $x i64) (result i64) (i64.mul (local.get $x) (local.get $x)))
    (func (export "even") (param $x i64) (result i64)
        (if (i64.ne (i64.and (local.get $x) (i64.const 1)) (i64.const 0)) (then unreachable))
        (local.get $x))
    (func (export "spin") (param $x i64) (result i64)
        (if (i64.eqz (local.get $x)) (then (loop $again (br $again))))
        (local.get $x))
    (func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
    (func (export "minus") (param i64 i64) (result i64) (i64.sub (local.get 0) (local.get 1)))
    (func (export "three") (param i64 i64 i64) (result i64) (local.get 0)))"#;

/// A component with `square`, and `sum` of a list.
pub(crate) const SUM: &str = r#"(component
    (core module $m
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        (func (export "square") (param $x i64) (result i64) (i64.mul (local.get $x) (local.get $x)))
        (func (export "sum") (param $at i32) (param $left i32) (result i64) (local $sum i64)
            (block $done
                (loop $again
                    (br_if $done (i32.eqz (local.get $left)))
                    (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br $again)))
            (local.get $sum)))
    (core instance $i (instantiate $m))
    (func (export "square") (param "x" s64) (result s64) (canon lift (core func $i "square")))
    (func (export "sum") (param "xs" (list s64)) (result s64)
        (canon lift (core func $i "sum") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;
