"""What people would write to serve the same model: FastAPI and torch, a picture at a time. For benchmarks/load.py.

python -m benchmarks.plain_service models/resnet18_imagenet 8001
"""

import sys
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

from stages.model import SmallMapConv2d, load_model, normalize

app = FastAPI()
network, record = load_model(sys.argv[1])
# a faster form for batches, which nobody else has; a picture alone is slower with it
small: list[Any] = [module for module in network.modules() if isinstance(module, SmallMapConv2d)]
for module in small:
    module.__class__ = torch.nn.Conv2d


@app.post("/v1/predict")
async def predict(files: UploadFile) -> dict[str, Any]:
    size = record.input_size
    picture = Image.open(files.file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    x = normalize(torch.from_numpy(np.asarray(picture).copy())[None], record.mean, record.std)
    with torch.inference_mode():
        logit = network(x)
        if logit.abs() < record.flip_tta_margin:
            logit = (logit + network(x.flip(3))) / 2
    p_fake = torch.sigmoid(logit.squeeze().double() / record.temperature).item()
    return {"file": files.filename, "p_fake": p_fake}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
