"""Static runtimes that a subnet may run on beside its packed program: onnxruntime and openvino, where installed.

A subnet is extracted and exported once (``export.py``), as ONNX or as openvino's own format, and opened by each worker
(``sessions.py``, ``module.py``). Which of them is worth keeping, and runs which batch sizes, is found out when it is
packed (``build.py``, ``contest.py``). Nothing is imported here: the router asks what is installed (``installed.py``).
"""
