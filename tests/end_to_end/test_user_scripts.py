"""The two examples of the user's own document, their syntax repaired and nothing else, against a real farm."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.farm import PATIENCE_S, running_farm
from tests.pythons import python2

EXAMPLE_1 = """\
import xmlrpclib

hq_server = xmlrpclib.ServerProxy( "http://localhost:5000")
try:
         hq_server.ping()
except:
         print "HQueue server is down."
"""

EXAMPLE_2 = """\
import time
import xmlrpclib

# Connect to the HQueue server.
hq_server = xmlrpclib.ServerProxy( "http://hq_server_hostname:5000")

# Define a job which renders an image from an IFD using Mantra.
job_spec = {
         "name": "Render My Image",
         "shell": "bash",
         "command":
                  "cd $HQROOT/houdini_distros/hfs;"
                  + " source houdini_setup;"
                  + " mantra < $HQROOT/path/to/ifds/some_frame.ifd"
}

# Submit the job to the server.
# newjob() returns a list of job ids (in case multiple jobs are passed in at once).
job_ids = hq_server.newjob(job_spec)

# Periodically check the job progress and status.
while True:
         # Get the job status.
         job_details = hq_server.getJob(job_ids[0], [ "progress", "status"])
         status = job_details["status"]

         # Check if the job is finished.
         if status in ("succeeded", "failed", "cancelled", "abandoned"):
                  break

         # Job is not finished. Output its progress.
         progress = job_details["progress"]
         print "Progress: %.2f" % (progress * 100)

# Output final status.
print "Status: ", job_details["status"]
"""

# The document's command needs Houdini; this one stands in its place and prints progress as a render does.
COMMAND = (
    "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo ALF_PROGRESS $((i*20))%; read -t 0.2 x < <(sleep 0.3); done; "
    "echo rendered in $HQROOT"
)
MANTRA = """\
                  "cd $HQROOT/houdini_distros/hfs;"
                  + " source houdini_setup;"
                  + " mantra < $HQROOT/path/to/ifds/some_frame.ifd"
"""


def as_python3(script: str) -> str:
    script = script.replace("import xmlrpclib", "import xmlrpc.client as xmlrpclib")
    script = script.replace('print "Progress: %.2f" % (progress * 100)', 'print("Progress: %.2f" % (progress * 100))')
    script = script.replace('print "Status: ", job_details["status"]', 'print("Status: ", job_details["status"])')
    return script.replace('print "HQueue server is down."', 'print("HQueue server is down.")')


@pytest.fixture(params=["python2.7", "python3"])
def run_script(request, tmp_path):
    if request.param == "python2.7":
        program, environment = python2()
        adapt = str
    else:
        program, environment, adapt = sys.executable, None, as_python3

    def run(script: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(adapt(script))
        done = subprocess.run(
            [program, str(path)], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_first_example_says_nothing_while_the_server_is_up(tmp_path, run_script):
    with running_farm(tmp_path, {}) as farm:
        script = EXAMPLE_1.replace("http://localhost:5000", farm.url)
        assert run_script(script) == ""
        assert farm.server.stop() == 0
        assert run_script(script) == "HQueue server is down.\n"


def test_second_example_submits_polls_and_ends(tmp_path, run_script):
    with running_farm(tmp_path, {"werkstück": 2}) as farm:
        assert MANTRA in EXAMPLE_2
        script = EXAMPLE_2.replace("http://hq_server_hostname:5000", farm.url).replace(
            MANTRA, f"                  {COMMAND!r}\n"
        )
        lines = run_script(script).splitlines()
        assert lines[-1].split() == ["Status:", "succeeded"]
        shown = [float(line.removeprefix("Progress: ")) for line in lines[:-1]]
        assert shown == sorted(shown)
        assert any(0 < value < 100 for value in shown), "no progress was seen while the job ran"
        proxy = farm.proxy()
        job = proxy.getJob(1)
        assert (job["status"], job["progress"], job["name"]) == ("succeeded", 1.0, "Render My Image")
        output = proxy.getJobOutput(1)
        assert "ALF_PROGRESS 100%\n" in output
        assert "rendered in /mnt/hq\n" in output
