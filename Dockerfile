# An image that indexes, searches and serves; without what only training needs.
FROM python:3.11-slim AS build
COPY . /source
RUN /source/docker/install.sh /opt/hashnet

FROM python:3.11-slim
COPY --from=build /opt/hashnet /opt/hashnet
# Its owner becomes that of the volume, which the user below writes to.
RUN install -d -o 10001 -g 10001 /index
USER 10001:10001
ENV PATH=/opt/hashnet/bin:$PATH
VOLUME /index
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["hashnet"]
CMD ["serve", "/index", "--host", "0.0.0.0"]
