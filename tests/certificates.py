"""Certificates for the tests, made by openssl."""

import subprocess
from pathlib import Path

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def make_authority(directory: Path, name: str) -> None:
    """NAME.pem and NAME.key."""
    _openssl(directory, f"req -x509 {_KEY} -subj /CN={name} -keyout {name}.key -out {name}.pem")


def sign(directory: Path, name: str, subject: str, authority: str = "root") -> None:
    """NAME.pem and NAME.key, signed by the authority, for the host or person `subject`."""
    _openssl(directory, f"req {_KEY} -subj /CN={subject} -addext subjectAltName=DNS:{subject} -keyout {name}.key -out {name}.csr")
    _openssl(
        directory,
        f"x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -copy_extensions copy "
        f"-out {name}.pem",
    )


def _openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
