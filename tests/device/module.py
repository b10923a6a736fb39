"""Run a module on the pretend device, and name its findings: python -m tests.device.module MODULE [ARGUMENT ...]."""

from __future__ import annotations

import runpy
import sys

from tests.device import findings, patches


def main():
    if reason := patches.install():
        sys.exit(reason)
    sys.argv, code = sys.argv[1:], 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    for kind, text in findings.FOUND:
        print(f"{kind}: {text}", file=sys.stderr)
    sys.exit(code or int(bool(findings.FOUND)))


if __name__ == "__main__":
    main()
