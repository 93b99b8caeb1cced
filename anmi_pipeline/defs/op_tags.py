"""Pools and op tags: which steps want a GPU, many cores or a judge's API.

The pool limits steps across runs; the Kubernetes part of the tags is inert on one machine.
"""

GPU_POOL, CPU_POOL, JUDGE_POOL = "gpu", "cpu_heavy", "judge_api"

GPU_TAGS: dict[str, object] = {
    "anmi/resource": "gpu",
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
}
CPU_TAGS: dict[str, object] = {
    "anmi/resource": "cpu_heavy",
    "dagster-k8s/config": {"container_config": {"resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}},
}
JUDGE_TAGS: dict[str, object] = {"anmi/resource": "judge_api"}
OWNERS = ["team:search-quality"]
