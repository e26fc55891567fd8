"""`epitaxy sweep` as a job: `ray job submit --working-dir . -- python jobs/sweep.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("sweep")
