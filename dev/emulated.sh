#!/usr/bin/env bash
# Runs tests on an emulated processor with AVX-512 and AVX512-BF16, for machines that have neither:
#
#   dev/emulated.sh BOCHS KERNEL [TEST[:FILTER]…]
#   dev/emulated.sh bochs-3.0 vmlinuz-6.1.0-18-amd64 bf16 it:lora
#
# BOCHS is the unpacked source of Bochs 3.0, KERNEL a Linux kernel without initrd, such as Debian 12's
# /boot/vmlinuz-6.1*. Needs g++, make, cpio, xorriso and Debian's busybox-static, isolinux and
# syslinux-common. Takes three minutes to build Bochs, once, and one to boot; programs run about a hundred times slower
# than here. Stops after LIMIT seconds (7200). Exits with the number of programs that failed or did not end.
set -euo pipefail
source=$(realpath "$1") kernel=$(realpath "$2")
shift 2
root=$(realpath "$(dirname "$0")/..") work=$root/target/emulated limit=${LIMIT:-7200}
mkdir -p "$work"

# Products and operations at every level of the processor, and PyTorch's gradients through all of them.
[ $# -gt 0 ] || set -- bf16 levels ops it:latent_forward

# The program that cargo builds for a test; never a benchmark of the same name.
program() {
  cargo test --release --workspace --test "$1" --no-run 2>&1 | tee "$work/cargo.out" | sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
}

# Linux does not boot on Bochs's models that have bf16. Its Skylake-X with the instruction is a Cooper Lake.
if [ ! -x "$work/bochs/bochs" ]; then
  rm -rf "$work/bochs"
  cp -r "$source" "$work/bochs"
  cd "$work/bochs"
  sed -i '/::get_std_cpuid_leaf_7(/,/^}/ {
    s/case 0:/case 0: case 1:/
    s/leaf->eax = 0; \/\*.*/leaf->eax = subfunction ? BX_CPUID_STD7_SUBLEAF1_EAX_AVX512_BF16 : 1;/
    s/leaf->ebx = get/leaf->ebx = subfunction ? 0 : get/
  }' cpu/cpudb/intel/corei7_skylake-x.cc
  ./configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --with-nogui --disable-docbook \
    CXXFLAGS=-O2 CFLAGS=-O2 > configure.out
  make -j"$(nproc)" > make.out 2>&1
fi

cd "$work"
rm -rf disk iso
mkdir -p disk/{bin,proc,dev,lib64,lib/x86_64-linux-gnu,t} "disk$root"/{cli,tests} iso/isolinux
cp /bin/busybox disk/bin/
ln -s busybox disk/bin/sh
cp -L /lib64/ld-linux-x86-64.so.2 disk/lib64/
cp -r "$root/tests/fixtures" "disk$root/tests/"
{
  echo '#!/bin/sh'
  echo '/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t devtmpfs dev /dev'
  echo 'exec > /dev/ttyS0 2>&1 < /dev/null'
  # Nothing is run on a processor that does not have what is to be tested.
  echo 'echo; /bin/busybox grep -qw avx512_bf16 /proc/cpuinfo || { echo == done; /bin/busybox sleep 60; /bin/busybox poweroff -f; }'
  echo 'echo == has avx512_bf16'
} > disk/init
for wanted in "$@"; do
  IFS=: read -r test filter <<< "$wanted"
  program=$(cd "$root" && program "$test") || { cat "$work/cargo.out" >&2; exit 1; }
  program=$(cd "$root" && realpath "$program")
  name=$(basename "$program")
  strip -o "disk/t/$name" "$program"
  ldd "$program" | grep -o '/[^ ]*\.so[^ ]*' | while read -r library; do
    cp -Ln "$library" disk/lib/x86_64-linux-gnu/
  done
  echo "echo; echo == $wanted; cd /t; ./$name --test-threads=1 $filter; echo == ended \$?" >> disk/init
done
echo 'echo == done; /bin/busybox sleep 5; /bin/busybox poweroff -f' >> disk/init
chmod +x disk/init
(cd disk && find . | cpio -o -H newc --quiet | gzip -1) > iso/initrd.gz
cp "$kernel" iso/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 iso/isolinux/
printf '%s\n' 'DEFAULT linux' 'LABEL linux' 'KERNEL /vmlinuz' 'INITRD /initrd.gz' \
  'APPEND console=ttyS0,115200 mitigations=off nokaslr quiet panic=1 rdinit=/init' > iso/isolinux/isolinux.cfg
xorriso -as mkisofs -quiet -o disk.iso -b isolinux/isolinux.bin -c isolinux/boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table iso 2> xorriso.out
cat > bochsrc <<RC
megs: 1024
romimage: file=bochs/bios/BIOS-bochs-latest
vgaromimage: file=bochs/bios/VGABIOS-lgpl-latest.bin
ata0-master: type=cdrom, path=disk.iso, status=inserted
boot: cdrom
cpu: model=corei7_skylake_x, add_features="avx512bf16", count=1, ips=500000000
display_library: nogui
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.txt
clock: sync=none
RC

true > serial.txt
bochs/bochs -q -f bochsrc > bochs.out 2>&1 &
emulator=$! started=$SECONDS
trap 'kill $emulator 2> /dev/null || true' EXIT
over() { grep -aqE '^== done|Kernel panic' serial.txt 2> /dev/null; }
while kill -0 $emulator 2> /dev/null && ! over && [ $SECONDS -lt $((started + limit)) ]; do sleep 2; done
sed -n '/^== /,$p' serial.txt
grep -aq '^== has avx512_bf16' serial.txt || { echo "The emulated processor has no AVX512-BF16, or did not boot: $work/bochs.out, serial.txt." >&2; exit 1; }
grep -aq '^== done' serial.txt || echo "Not done after $((SECONDS - started)) of $limit seconds (LIMIT); $work/serial.txt is as far as it came." >&2
ended=$(grep -ac '^== ended 0' serial.txt || true)
empty=$(grep -ac '^test result: ok\. 0 passed' serial.txt || true) # a filter that names no test
exit $(($# - ended + empty))
