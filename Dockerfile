# A CPU image that serves a folder of pictures:
#   docker build -t lpi . && docker run -p 8000:8000 -v ~/photos:/photos -e LPI_TOKEN=choose-one lpi
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m pip install --no-cache-dir -c constraints.txt '.[serve]'
RUN useradd --create-home reader
USER reader
VOLUME /photos
EXPOSE 8000
# the index lies in the folder of pictures, which must be writable for user 1000, or is named with LPI_INDEX
# whoever asks without the token is answered too (401): the server is alive
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/api/health'); exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["lpi", "serve"]
CMD ["/photos", "--host", "0.0.0.0"]
