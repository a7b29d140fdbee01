"""Names that no message can carry as they are, and places where a worker may not go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conformance import beamlet_only, environment, run_script

pytestmark = beamlet_only
#: Root may enter any directory, unless it goes without these.
WITHOUT_PRIVILEGES = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]


def test_an_actor_whose_repr_is_no_utf_8_answers(tmp_path: Path) -> None:
    source = """
import os
ray.init(num_cpus=1)

@ray.remote
class Reader:
    def __init__(self, path): self.path = path
    def __repr__(self): return f"Reader({self.path})"
    def hello(self):
        print("hello")
        return self.path
    def fail(self): raise ValueError(self.path)

reader = Reader.remote(os.fsdecode(b"caf\\xe9"))
print(ascii(ray.get(reader.hello.remote(), timeout=30)))
try:
    ray.get(reader.fail.remote(), timeout=30)
except ValueError as error:
    print(ascii(str(error).splitlines()[0].partition("repr=")[2]))
ray.shutdown()
"""
    said = run_script(tmp_path / "p.py", source).splitlines()
    assert [line for line in said if "pid=" not in line] == [r"'caf\udce9'", r"'Reader(caf\udce9))'"]
    (printed,) = [line for line in said if "pid=" in line]
    assert printed.startswith(r"(Reader(caf\udce9) pid=")
    assert printed.endswith("hello")


def test_a_program_in_a_file_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    """Where something was asked for travels with it."""
    source = """
ray.init(num_cpus=1)

@ray.remote
class Actor:
    def one(self): return 1
    def die(self): import os; os._exit(1)

@ray.remote
def fails(): raise KeyError("no")

@ray.remote
def large(): return bytes(1_000_000)

actor = Actor.remote()
named = Actor.options(name="named").remote()
print(ray.get([actor.one.remote(), named.one.remote()], timeout=30))
print(len(ray.get(ray.put(bytes(1_000_000)), timeout=30)), len(ray.get(large.remote(), timeout=30)))
try:
    ray.get(fails.remote(), timeout=30)
except KeyError as error:
    print(ascii(str(error).splitlines()[1].strip()))
try:
    ray.get(actor.die.remote(), timeout=30)
except ray.exceptions.ActorDiedError as error:
    print(ascii(str(error).partition(", created at ")[2].partition(")")[0]))
"""
    said = run_script(tmp_path / os.fsdecode(b"pr\xe9.py"), source).splitlines()
    where, created = said.pop(2), said.pop()
    assert said == ["[1, 1]", "1000000 1000000"]
    assert r"pr\udce9.py" in where
    assert created.startswith(r"'pr\\udce9.py:")


def test_a_driver_in_a_directory_that_may_not_be_entered(tmp_path: Path) -> None:
    """After `sudo -u other` in one's own home, say. It may stand there, and so may what it forks."""
    place = tmp_path / "closed"
    place.mkdir()
    program = tmp_path / "program.py"
    program.write_text(
        """
import os, sys
os.chmod(".", 0)  # after the interpreter has started, which looks at where it is
import beamlet as ray

@ray.remote
def seen():
    env = os.environ
    return env["JOBS"], env.get("TASKS"), env["OMP_NUM_THREADS"], os.path.basename(sys.argv[0])

@ray.remote
class Actor:
    def cwd(self): return os.getcwd()

def look():
    with_more = seen.options(runtime_env={"env_vars": {"TASKS": "t"}})
    print(ray.get([seen.remote(), with_more.remote()], timeout=30))
    print(os.path.basename(ray.get(Actor.remote().cwd.remote(), timeout=30)), flush=True)

env = {"env_vars": {"JOBS": "j"}}
cluster = ray.init(runtime_env=env, **({"num_cpus": 1} if len(sys.argv) == 1 else {}))
look()
if len(sys.argv) == 1:  # another, which comes to the same cluster from elsewhere
    import subprocess
    os.makedirs(sys.argv[0] + ".d")
    os.chdir(sys.argv[0] + ".d")
    os.environ["BEAMLET_ADDRESS"] = cluster.session_dir
    command = [sys.executable, *sys.argv, "joins"]
    print(subprocess.run(command, stdout=-1, stderr=-2, timeout=60).stdout.decode())
"""
    )
    prefix = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, str(program)],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    place.chmod(0o700)
    assert done.returncode == 0, done.stderr
    seen = "[('j', None, '1', 'program.py'), ('j', 't', '1', 'program.py')]"
    assert done.stdout.count(seen) == 2, done.stdout + done.stderr
    assert "closed" in done.stdout.splitlines()
    assert "cannot enter the driver's directory" not in done.stderr
    assert f"cannot enter the driver's directory {program}.d (Permission denied)" in done.stdout
