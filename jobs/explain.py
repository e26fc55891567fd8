"""`epitaxy explain` as a job: `ray job submit --working-dir . -- python jobs/explain.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("explain")
