# An image with the wheel alone, no checkout. Downloads and indexes stay in the volume `taco`, runs in the folder where you are:
#   docker build -t taco-ir .
#   docker run -v taco:/data -v "$PWD:/work" taco-ir search --topics nq-dev
FROM python:3.11-slim AS wheel
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.11-slim
COPY --from=wheel /wheels /wheels
# the versions that are tested together
COPY constraints.txt /wheels/
# the CPU build of PyTorch; leave the index out for CUDA's
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu --constraint /wheels/constraints.txt /wheels/*.whl \
    && rm -r /wheels
ENV TACO_IR_HOME=/data
VOLUME /data
WORKDIR /work
ENTRYPOINT ["taco-ir"]
CMD ["--help"]
