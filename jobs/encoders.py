"""`epitaxy encoders` as a job: `ray job submit --working-dir . -- python jobs/encoders.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("encoders")
