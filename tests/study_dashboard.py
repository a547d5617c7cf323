"""optuna-dashboard on a study that pemlc wrote: it starts, and its HTTP API lists the study and its trials.

    python3 tests/study_dashboard.py sqlite:////path/to/study.db
    python3 tests/study_dashboard.py "postgresql+psycopg2://me@host:5432/studies"

Needs optuna and optuna-dashboard (and psycopg2 for PostgreSQL). Prints one line a study and one a trial; exits with 1 unless every study
has all the trials that Optuna reads.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import optuna

SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, server):
    for _ in range(SECONDS * 4):
        if server.poll() is not None:
            sys.exit(f"optuna-dashboard ended with {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.25)
    sys.exit(f"{url} does not answer")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("storage", help="the study's URL, as SQLAlchemy takes it")
    storage = parser.parse_args().storage
    port = free_port()
    program = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    server = subprocess.Popen([*program, storage, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    good = True
    try:
        base = f"http://127.0.0.1:{port}/api/studies"
        for study in get(base, server)["study_summaries"]:
            shown = get(f"{base}/{study['study_id']}", server)["trials"]
            expected = optuna.load_study(study_name=study["study_name"], storage=storage).get_trials()
            states = {}
            for trial in shown:
                states[trial["state"]] = states.get(trial["state"], 0) + 1
            print(f"study {study['study_name']}: {len(shown)} trials in the dashboard, {len(expected)} in Optuna: {states}")
            for trial in shown:
                params = {param["name"]: param["param_external_value"] for param in trial["params"]}
                print(f"  trial {trial['number']}: {trial['state']} {trial.get('values', '')} {params}")
            good &= len(shown) == len(expected) > 0
    finally:
        server.terminate()
        server.wait()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
