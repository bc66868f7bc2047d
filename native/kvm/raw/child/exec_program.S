// exec_program.c, built, as bytes of the addon.
    .section .rodata
    .globl kvitest_exec_program, kvitest_exec_program_end
    .balign 16
kvitest_exec_program:
    .incbin KVITEST_EXEC_PROGRAM
kvitest_exec_program_end:
    .section .note.GNU-stack,"",@progbits
