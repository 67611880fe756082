#include "textflag.h"

// func Read(b []byte)
TEXT ·Read(SB), NOSPLIT, $0-24
	MOVQ b_base+0(FP), AX
	MOVQ b_len+8(FP), CX
	ADDQ AX, CX
	ANDQ $-64, AX

read:
	CMPQ AX, CX
	JAE  done
	PREFETCHT0 (AX)
	ADDQ $64, AX
	JMP  read

done:
	RET

// func Write(b []byte)
TEXT ·Write(SB), NOSPLIT, $0-24
	MOVQ b_base+0(FP), AX
	MOVQ b_len+8(FP), CX
	ADDQ AX, CX
	ANDQ $-64, AX

write:
	CMPQ AX, CX
	JAE  done
	BYTE $0x0f; BYTE $0x0d; BYTE $0x08 // PREFETCHW (AX), which Go's assembler does not know; where the processor does not know it either, it does nothing
	ADDQ $64, AX
	JMP  write

done:
	RET
