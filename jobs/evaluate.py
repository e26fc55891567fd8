"""`epitaxy evaluate` as a job: `ray job submit --working-dir . -- python jobs/evaluate.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("evaluate")
