"""`epitaxy finetune` as a job: `ray job submit --working-dir . -- python jobs/finetune.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("finetune")
