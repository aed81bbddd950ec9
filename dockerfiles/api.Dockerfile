# The HTTP service and the page, without torch. From the root of the repository:
#
#   dvc pull models/resnet18_imagenet
#   docker build -f dockerfiles/api.Dockerfile -t ai-art-detector .
#   docker run --rm --read-only -p 127.0.0.1:8000:8000 ai-art-detector

FROM python:3.13-slim

WORKDIR /srv
COPY requirements-api.txt .
RUN pip install --no-cache-dir --no-deps -r requirements-api.txt
# whoever may read them in the clone, the user below may
COPY --chmod=755 detector detector
COPY --chmod=755 app app
COPY --chmod=755 models/resnet18_imagenet models/resnet18_imagenet

# It listens on every address of the container, and answers to localhost and 127.0.0.1; for other names: SERVE_HOSTS.
ENV PYTHONDONTWRITEBYTECODE=1 SERVE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.getenv('SERVE_PORT', 8000)}/healthz\")"]
CMD ["python", "-m", "app"]
