"""Run an OpenAPI fuzzer against a live server, from the document that it serves itself: ``make fuzz-http``.

The fuzzer checks statuses, media types, headers and bodies against the document; this script sees to it that the server
is still there afterwards and has logged nothing as a defect. Usage: live_http.py SCHEMATHESIS [ITS ARGUMENTS].
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from support.folders import write_digits_like_folder
from support.server_process import serving

SETTINGS = Path(__file__).parent / "schemathesis.toml"

#: Whether tensors fit is the model's to say, not the document's: a body of the right form may be refused.
CHECKS = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


def main(fuzzer: str, *arguments: str) -> int:
    """Exit code: the fuzzer's, or 1 if the server did not like what it was sent."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = write_digits_like_folder(scratch / "digits")
        # A model to load and unload that the other requests do not need.
        write_digits_like_folder(scratch / "repository" / "spare")
        flags = ["--workers", "1", "--slo-ms", "500", "--model-repository", str(scratch / "repository")]
        flags += ["--ledger", "0.5", "--reprofile"]  # without them some paths only say that they could be there
        with serving(folder, *flags, scratch=scratch) as server:
            command = [
                str(Path(fuzzer).absolute()),
                "--config-file",
                str(SETTINGS),
                "run",
                f"{server.url}/openapi.json",
            ]
            code = subprocess.run([*command, *CHECKS, *arguments], cwd=scratch, check=False).returncode
            stopped = server.stop()
        defects = [line for line in server.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]
    for line in defects:
        sys.stderr.write(f"the server logged: {line}\n")
    if stopped:
        sys.stderr.write(f"the server ended with {stopped}\n")
    return code or int(bool(defects or stopped))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
