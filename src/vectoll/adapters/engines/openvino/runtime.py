"""OpenVINO itself, imported without its model converter.

The package imports its command-line converter when it can, and that a telemetry client: a third of the import
time for code that is never called. It tolerates the converter's absence, so it is told that there is none.
"""

import sys

_CONVERTER = "openvino.tools.ovc"

_has_converter = _CONVERTER in sys.modules
if not _has_converter:
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the documented way to make an import fail
try:
    import openvino as ov
    from openvino import opset15 as ops
finally:
    if not _has_converter:
        del sys.modules[_CONVERTER]

__all__ = ["ops", "ov"]
