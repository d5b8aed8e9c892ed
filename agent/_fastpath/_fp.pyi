# SPDX-License-Identifier: Apache-2.0
from cffi import FFI

class _Lib:
    FP_MAX_VLAN_TAGS: int
    FP_MAX_EXTENSIONS: int
    def fp_parse(self, data: FFI.CData, size: int, key: FFI.CData) -> int: ...
    def fp_parse_batch(
        self, buffer: FFI.CData, size: int, frames: FFI.CData, count: int, keys: FFI.CData, results: FFI.CData
    ) -> int: ...

ffi: FFI
lib: _Lib
