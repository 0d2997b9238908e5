"""Real input: 48 frames of a POV-Ray scene rendered as child jobs on two clients, encoded by their parent."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.farm import eventually, running_farm

FRAMES = 48
SCENE = """\
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1.5, -5> look_at <0, 0.5, 0> }
light_source { <4, 6, -6> rgb 1 }
plane { y, 0 pigment { checker rgb 0.2 rgb 0.8 } }
sphere { <2.5 * sin(2 * pi * clock), 0.5 + abs(sin(6 * pi * clock)), 0>, 0.5 pigment { rgb <0.9, 0.3, 0.1> } }
"""


@pytest.mark.timeout(170)
def test_children_render_and_their_parent_encodes(tmp_path):
    for program in ("povray", "ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    show = tmp_path / "Größe"
    show.mkdir()
    (show / "scene.pov").write_text(SCENE)
    render = "povray +Iscene.pov +Obild_{frame:03d}.png +W96 +H64 +K{clock:.4f} -D -GA +WT1 && echo PROGRESS: 1/1"
    spec = {
        "name": "Encode Video",
        "shell": "bash",
        "tags": ["single:encode"],
        "command": f"cd '{show}' && ffmpeg -nostdin -y -framerate 24 -i bild_%03d.png -c:v mpeg4 film.mp4",
        "children": [
            {
                "name": f"Render Bild {frame}",
                "shell": "bash",
                "cpus": 1,
                "command": f"cd '{show}' && " + render.format(frame=frame, clock=frame / FRAMES),
            }
            for frame in range(FRAMES)
        ],
    }
    with running_farm(tmp_path, {"eins": 2, "zwei": 2}) as farm:
        proxy = farm.proxy()
        parent, *frames = proxy.newjob(spec)
        assert len(frames) == FRAMES
        assert proxy.getJob(parent, ["status"])["status"] == "queued"
        eventually(
            lambda: proxy.getJob(parent, ["status"])["status"] in {"succeeded", "failed"}, "the film is made", 150
        )
        job = proxy.getJob(parent)
        assert job["status"] == "succeeded", proxy.getJobOutput(parent)
        assert job["overallProgress"] == 1.0
        jobs = proxy.getJobs(frames, ["status", "clients", "progress"])
        assert {each["status"] for each in jobs} == {"succeeded"}
        assert {each["progress"] for each in jobs} == {1.0}
        used = {each["clients"][0]["name"] for each in jobs}
        assert used == {"eins", "zwei"}
        farm.check()
    asked = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=nb_read_frames",
    ]
    done = subprocess.run(
        [*asked, "-of", "json", str(show / "film.mp4")], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["streams"][0]["nb_read_frames"] == str(FRAMES)
