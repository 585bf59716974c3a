# mypy: ignore-errors
"""Kernels on the threads that torch's products run on.

Between two products torch's OpenMP threads do not sleep, they spin, so that the next product finds them at once. The
threads of any other pool find no free CPU beside them. Kernels therefore take the same threads, by the entry that
`#pragma omp parallel` compiles to; handing work over then costs half a microsecond.
"""

import ctypes

import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


def _known() -> bool:
    """Make the entries of torch's OpenMP known to compiled code; whether it has them (on Linux it does)."""
    try:
        library = ctypes.CDLL(torch._C.__file__)  # finds what it was linked with, too
        found = [getattr(library, entry) for entry in _ENTRIES]
    except (OSError, AttributeError):
        # Compiled code cannot be loaded without these names. With one thread it never calls them.
        found = [ctypes.pythonapi.Py_IsInitialized] * len(_ENTRIES)
    for entry, function in zip(_ENTRIES, found, strict=True):
        binding.add_symbol(f"gru4rec.{entry}", ctypes.cast(function, ctypes.c_void_p).value)
    return found[0] is not found[1]


AVAILABLE = _known()


@intrinsic
def shared(typing, kernel, threads, count, arguments):
    """kernel(*arguments, start, stop) for 0…count in as many parts as there are `threads`, side by side.

    `kernel` is a compiled function that returns nothing, `arguments` a tuple. With one thread it is a plain call, as
    it must be where OpenMP is not AVAILABLE. Raises MemoryError where a part fails: kernels make no other errors.
    """
    given = (*arguments.types, types.intp, types.intp)
    kernel.get_call_type(typing, given, {})  # compiles it

    def generate(context, builder, signature, values):
        _, threads, count, arguments = values
        compiled = kernel.dispatcher.overloads[given]
        context.active_code_library.add_linking_library(compiled.library)
        number, size, pointer = ir.IntType(32), count.type, cgutils.voidptr_t
        work_type = ir.LiteralStructType([size, arguments.type, number])  # count, arguments, whether a part failed

        def entry(name, result, parameters):
            kind = ir.FunctionType(result, parameters)
            return cgutils.get_or_insert_function(builder.module, kind, f"gru4rec.{name}")

        def run(builder, work, start, stop):
            target = context.declare_function(builder.module, compiled.fndesc)
            parts = cgutils.unpack_tuple(builder, builder.load(cgutils.gep_inbounds(builder, work, 0, 1)))
            status, _ = context.call_conv.call_function(builder, target, types.none, given, [*parts, start, stop])
            with builder.if_then(status.is_error, likely=False):
                builder.store(number(1), cgutils.gep_inbounds(builder, work, 0, 2))

        # void part(void *work): what each thread runs.
        kind = ir.FunctionType(ir.VoidType(), [pointer])
        part = ir.Function(builder.module, kind, builder.module.get_unique_name(f"part.{compiled.fndesc.mangled_name}"))
        part.linkage = "internal"
        inner = ir.IRBuilder(part.append_basic_block())
        work = inner.bitcast(part.args[0], work_type.as_pointer())
        total = inner.load(cgutils.gep_inbounds(inner, work, 0, 0))
        thread = inner.sext(inner.call(entry("omp_get_thread_num", number, []), []), size)
        team = inner.sext(inner.call(entry("omp_get_num_threads", number, []), []), size)
        start = inner.sdiv(inner.mul(total, thread), team)
        run(inner, work, start, inner.sdiv(inner.mul(total, inner.add(thread, size(1))), team))
        inner.ret_void()

        work = cgutils.alloca_once(builder, work_type)
        builder.store(cgutils.make_anonymous_struct(builder, [count, arguments, number(0)], work_type), work)
        with builder.if_else(builder.icmp_signed(">", threads, size(1))) as (several, one):
            with several:
                parallel = entry("GOMP_parallel", ir.VoidType(), [kind.as_pointer(), pointer, number, number])
                given_work, team = builder.bitcast(work, pointer), builder.trunc(threads, number)
                builder.call(parallel, [part, given_work, team, number(0)])
            with one:
                run(builder, work, size(0), count)
        failed = builder.load(cgutils.gep_inbounds(builder, work, 0, 2))
        with builder.if_then(builder.icmp_signed("!=", failed, number(0)), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel",))
        return context.get_dummy_value()

    return types.none(kernel, types.intp, types.intp, arguments), generate
