"""How busy machine and process are, under the names of MLflow's own system metrics, which its pages know.

MLflow's monitor would call a server from a thread of its own, which a dead server holds up; this is told with the rest.
"""

import psutil
import torch


def sample() -> dict[str, float]:
    """Return name -> value: percent of all cores since the last call, megabytes; of a GPU, what torch has there."""
    memory = psutil.virtual_memory()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["system/gpu_0_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 1e6
    return found
