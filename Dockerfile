# One image, several roles: its first argument is the role (deploy/entrypoint.py). Builds for amd64 and arm64 alike.
#   docker build -t taskpulse .
# Behind a package index or a certificate authority of your own:
#   docker build --secret id=pip_conf,src=/etc/pip.conf --secret id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt -t taskpulse .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
COPY requirements.txt /tmp/
# These files and no others: each has its hash, none is built here, and pip stays behind.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-compile --root-user-action ignore \
       --disable-pip-version-check --only-binary :all: --require-hashes -r /tmp/requirements.txt
COPY . /app/
# Static files under hashed names, compressed; then what nobody reads at run time goes: their sources, tests, languages
# that we do not speak. The bytecode of what the roles import is made now, since the root file system will be read-only.
RUN cd /app \
    && export PATH=/opt/venv/bin:$PATH TASKPULSE_MODE=local SECRET_KEY=build DATABASE_URL=postgresql://build@localhost/build TASKPULSE_STATIC_ROOT=/opt/static \
    && PYTHONDONTWRITEBYTECODE=1 python manage.py collectstatic --noinput --verbosity 0 \
    && find /opt/static -name '*.map*' -delete \
    && find /opt/venv /app -type d \( -name static -o -name tests -o -path '*/locale/*' -not -path '*/locale/en*' -not -path '*/locale/de*' -not -path '*/locale/fr*' \) -prune -exec rm -rf {} + \
    && find /opt/venv -name '*.po' -delete \
    && export PYTHONPYCACHEPREFIX=/opt/pycache \
    && python manage.py check --verbosity 0 \
    && python manage.py relay_outbox --help >/dev/null \
    && python manage.py consume_events --help >/dev/null \
    && python manage.py migrate --help >/dev/null \
    && python -m gunicorn --check-config -c deploy/gunicorn.conf.py taskpulse.wsgi \
    && chmod -R a+rX,go-w /app /opt

# The base without what no role needs: pip and its like, its own or Debian's, headers, full Perl (as far as the base has it),
# character sets of the C library's iconv, setuid bits.
FROM ${PYTHON_IMAGE} AS system
RUN dpkg-query --show --showformat '${Package}\n' | grep -E '^(perl|libperl5.*|perl-modules-.*|python3-(pip|setuptools|wheel|venv)(-whl)?)$' | xargs -r dpkg --purge --force-depends 2>/dev/null; \
    rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/idlelib \
       /usr/local/lib/python3*/config-* /usr/local/include /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/python*-config \
       /usr/lib/*/gconv /root/.cache /var/cache/apt /var/cache/debconf /var/lib/apt/lists /tmp/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && echo 'taskpulse:x:10001:10001:TaskPulse:/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'taskpulse:x:10001:' >> /etc/group

# One layer of it: what a layer deletes stays in the one below.
FROM scratch
COPY --from=system / /
COPY --from=packages /opt /opt
COPY --from=packages /app /app
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TaskPulse" \
      org.opencontainers.image.description="A task service whose every change is provably recorded" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/pycache \
    TASKPULSE_STATIC_ROOT=/opt/static \
    TASKPULSE_LOG_FORMAT=json \
    TASKPULSE_REVISION=${REVISION} \
    PORT=8000
WORKDIR /app
USER 10001:10001
EXPOSE 8000 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "deploy/healthcheck.py"]
ENTRYPOINT ["python", "deploy/entrypoint.py"]
