"""Strikes at an exact moment. Python loads this by itself in every process whose PYTHONPATH has the folder.

MEMEXP_FAULT holds as JSON what `drills.strikes.Fault` describes. memexp knows nothing of it: functions of its modules,
or of the standard library, are replaced by ones that count their calls and then do what the drill wants.
"""

import datetime
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time

DAY = 24 * 3600
link = os.link  # which may be what is struck


def struck(fault):
    """Leave a file that says so; False where the fault has struck as often as it should."""
    said = f"{fault['folder']}/{os.getpid()}"
    with open(said, "w") as file:
        file.write(str(os.getpid()))
    for number in range(fault["times"]):
        try:
            link(said, f"{fault['folder']}/struck-{number}")  # there with its content, or not at all
            return True
        except FileExistsError:
            continue
    return False


def strike(fault):
    if not struck(fault):
        return
    if fault["act"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while not os.path.exists(f"{fault['folder']}/go"):  # "wait": until the drill has done its worst
        time.sleep(0.02)


def striking(plain, fault):
    """`plain`, with the fault before or after its n-th call that has to do with the path."""
    calls = 0

    def called(*arguments, **options):
        nonlocal calls
        paths = [f"/proc/self/fd/{each}" for each in arguments if isinstance(each, int)]
        paths = [os.readlink(path) for path in paths] + [each for each in map(str, arguments)]
        calls += any(fault["path"] in path for path in paths)
        now = calls == fault["nth"] and any(fault["path"] in path for path in paths)
        if now and not fault["after"]:
            strike(fault)
        answer = plain(*arguments, **options)
        if now and fault["after"]:
            strike(fault)
        return answer

    return called


def set_back(folder):
    """Every clock that Python code reads goes back a day once the drill says so."""
    plain, plain_ns, gone = time.time, time.time_ns, []

    def shift():
        if not gone and os.path.exists(f"{folder}/go"):
            gone.append(True)
        return DAY if gone else 0

    class Clock:
        @staticmethod
        def now(zone=None):
            return datetime.datetime.now(zone) - datetime.timedelta(seconds=shift())

    time.time = lambda: plain() - shift()
    time.time_ns = lambda: plain_ns() - shift() * 10**9
    for module in ("memexp.plan.attempts", "memexp.sweep"):  # `datetime.now` is of C and asks the system itself
        when_loaded(module, lambda loaded: setattr(loaded, "datetime", Clock))


def when_loaded(name, change):
    """Have `change(module)` called when the module has been imported, or now where it is there."""
    if name in sys.modules:
        change(sys.modules[name])
        return

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, wanted, path, target=None):
            if wanted != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def executed(module):
                execute(module)
                change(module)

            spec.loader.exec_module = executed
            return spec

    sys.meta_path.insert(0, Finder())


def install(fault):
    if fault["act"] == "set the clock back":
        set_back(fault["folder"])
        return
    name, _, inside = fault["at"].partition(":")
    *outer, last = inside.split(".")

    def change(module):
        for part in outer:
            module = getattr(module, part)
        setattr(module, last, striking(getattr(module, last), fault))

    when_loaded(name, change)


if "MEMEXP_FAULT" in os.environ:
    install(json.loads(os.environ["MEMEXP_FAULT"]))
