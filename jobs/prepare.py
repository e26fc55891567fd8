"""`epitaxy prepare` as a job: `ray job submit --working-dir . -- python jobs/prepare.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("prepare")
