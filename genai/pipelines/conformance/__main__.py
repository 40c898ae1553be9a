"""`python -m genai.pipelines.conformance BACKEND MODEL [DEVICE]`: which rules a backend keeps.

Ends with 1 if one is broken, with 2 if the backend or the model cannot be had.
"""

from __future__ import annotations

import sys

from genai.errors import GenAIError
from genai.pipelines.conformance import Subject, check
from genai.pipelines.registry import DeviceFactory, Text2TextPipelineFactory


def main(arguments: list[str]) -> int:
    """Print a line for each rule; the exit code."""
    if len(arguments) not in (2, 3):
        print("usage: python -m genai.pipelines.conformance BACKEND MODEL [DEVICE]", file=sys.stderr)
        return 2
    backend, model = arguments[:2]
    try:
        known = DeviceFactory.get_instance().enumerate(backend)
        devices = [device for device in known if device.identifier in arguments[2:]]
        if len(devices) != len(arguments) - 2:
            names = ", ".join(device.identifier for device in known)
            print(f"{backend} has no device {arguments[2]!r}; it has {names}", file=sys.stderr)
            return 2
        factory = Text2TextPipelineFactory.get_instance()
        subject = Subject(create=lambda: factory.create(backend, model, devices))
        subject.own  # noqa: B018 (loads the model: what cannot be had ends here)
    except GenAIError as error:
        print(f"{backend}: {error}", file=sys.stderr)
        return 2
    is_broken = False
    for finding in check(subject):
        is_broken |= finding.outcome == "broken"
        print(f"{finding.outcome:<10} {finding.rule.says}", flush=True)
        if finding.seen:
            print(f"{'':<10} seen: {finding.seen}", flush=True)
    subject.close()
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
