"""`epitaxy objectives` as a job: `… job submit --working-dir . -- python jobs/objectives.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("objectives")
