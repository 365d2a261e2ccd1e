"""A process that becomes what a worker is, and then lets C write behind the end of its memory."""

from mcr._native import ffi, lib
from mcr.runtime import confine
from mcr.runtime.roles import WORKER
from mcr.worker.dataplane import allow_system_calls

if __name__ == "__main__":
    room = ffi.new("uint8_t[]", lib.MCR_GENERATED_HEADER_BYTES)
    confine.give_up(WORKER)
    allow_system_calls(WORKER.system_calls)
    lib.mcr_generated__write(room, lib.MCR_GENERATED_HEADER_BYTES + 8, 0, 0, 0, 0)
