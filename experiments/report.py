def write(workdir): return "report"
