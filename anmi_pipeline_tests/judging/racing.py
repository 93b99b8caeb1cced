"""Run as a process of its own: many workers that spend one budget as fast as they can, and say what they sent."""

import sys
import threading

from anmi_pipeline.judging.budget import Budget, Settlement, Want
from anmi_pipeline.judging.ledger_tables import Books


def main(url: str, scope: str, max_usd: str, max_calls: str, workers: int, crash_every: int) -> None:
    """Every worker reserves, sends and settles until the cap refuses; every n-th call is never settled, as after a crash."""
    with Books(url) as books:
        budget = Budget(books, scope, float(max_usd) if max_usd else None, int(max_calls) if max_calls else None)
        sent: list[tuple[int, int, bool]] = []

        def work(number: int) -> None:
            done = 0
            while True:
                worst = 1_000_000 + 7 * (number + done % 5)
                reserved = budget.reserve([Want(f"{number}-{done}", worst)])
                if not reserved:
                    return
                done += 1
                lost = done % crash_every == 0
                sent.append((worst, worst // 2, lost))
                if not lost:
                    budget.settle([Settlement(reserved[0], worst // 2, 1)])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()  # both processes start together
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        true = sum(worst if lost else half for worst, half, lost in sent)
        sys.stdout.write(f"{len(sent)} {true} {sum(lost for *_, lost in sent)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))
