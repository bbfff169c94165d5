#!/bin/sh
# Links the BPF object with $BPF_LINKER.
#
# For each module that it adds, LLVM looks through all that is linked already. compiler_builtins has
# hundreds of small modules: before the large ones instead of after them, they halve the time.
builtins=
for argument do
    shift
    case $argument in
        */libcompiler_builtins-*.rlib) builtins=$argument ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec "$BPF_LINKER" ${builtins:+"$builtins"} "$@"
