# SPDX-License-Identifier: MIT
"""Certificates, revocations and keys for tests of TLS, by certtool."""
import os
import subprocess

from tap import Fault

DAY = 24 * 3600


def certtool(*words):
    done = subprocess.run(["certtool", *map(str, words)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(f"certtool {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Authority:
    """A CA that keeps what it makes in the folder `where`."""

    def __init__(self, where):
        os.makedirs(where)
        self.where = where
        self.serial = 1
        self.certificate = f"{where}/ca-cert.pem"
        self.key = f"{where}/ca-key.pem"
        template = f"{where}/ca.info"
        write(template, f"cn = \"CA {where}\"\nca\ncert_signing_key\ncrl_signing_key\n"
                        "expiration_days = 30\n")
        certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", self.key)
        certtool("--generate-self-signed", "--load-privkey", self.key, "--template", template,
                 "--outfile", self.certificate)

    def issue(self, folder, role, name, *lines):
        """ROLE-cert.pem and ROLE-key.pem, made out to `name`, beside the CA's own in `folder`.

        `lines` are more of certtool's template."""
        os.makedirs(folder, exist_ok=True)
        self.serial += 1
        key, template = f"{folder}/{role}-key.pem", f"{folder}/{role}.info"
        dates = [] if any("activation" in line for line in lines) else ["expiration_days = 30"]
        write(template, "\n".join([f'cn = "{name}"', 'organization = "vdisk, test"',
                                   f"serial = {self.serial}", "signing_key", *dates,
                                   *(lines or [f"tls_www_{role}"])]) + "\n")
        certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", key)
        certtool("--generate-certificate", "--load-ca-certificate", self.certificate,
                 "--load-ca-privkey", self.key, "--load-privkey", key, "--template", template,
                 "--outfile", f"{folder}/{role}-cert.pem")
        if not os.path.exists(f"{folder}/ca-cert.pem"):
            with open(self.certificate, encoding="utf-8") as file:
                write(f"{folder}/ca-cert.pem", file.read())
        return folder

    def revoke(self, path, certificate):
        """A list with that one certificate on it."""
        template = f"{self.where}/crl.info"
        write(template, "crl_next_update = 30\ncrl_number = 1\n")
        certtool("--generate-crl", "--load-ca-certificate", self.certificate, "--load-ca-privkey",
                 self.key, "--load-certificate", certificate, "--template", template, "--outfile",
                 path)
